"""A user, a scheduled email and links for the tests of the builders, and the rendered result."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from flowstate_daemon.database.app_data import NOTIFICATIONS, User
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.kinds import parse_request
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.scheduler.scheduled_mail import NothingToSend
from tests.unit.mail.rendered_mails import BRAND, TO

ROOT = "https://flowstate.example"
LINKS = AppLinks(ROOT)
PARIS = ZoneInfo("Europe/Paris")
RENDERER = Renderer(BRAND)
SUNDAY = date(2026, 3, 15)


def user(full_name: str | None = "Ada Lovelace", language: str | None = None) -> User:
    return User("ada", TO, full_name, True, False, language, None, frozenset(NOTIFICATIONS))


def scheduled_mail(
    kind: str, day: date = SUNDAY, hour: int = 9, zone: ZoneInfo = PARIS, task_id: str = ""
) -> ScheduledMail:
    due_at = datetime(day.year, day.month, day.day, hour, tzinfo=zone).astimezone(UTC)
    return ScheduledMail(kind, "ada", day, zone.key, due_at, due_at, task_id)


def context(built: NewMail | NothingToSend) -> dict[str, Any]:
    assert isinstance(built, NewMail), built
    return dict(built.context)


def mail(kind: str, built: NewMail | NothingToSend) -> Email:
    """The email that the daemon would send, parsed like any other job."""
    assert isinstance(built, NewMail), built
    data = msgspec.json.encode({"type": kind, "to": TO, "context": dict(built.context), "locale": built.locale})
    return RENDERER.render(parse_request(kind, data))

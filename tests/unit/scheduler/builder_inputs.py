"""A person, a slot and links for the tests of the builders, and the mail that comes out in the end."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from flowstate_daemon.database.app_data import NOTIFICATIONS, User
from flowstate_daemon.mail.kinds import parse_request
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.scheduler.scheduled_mail import AppLinks, MailContext, NothingToSend, Slot
from tests.unit.mail.rendered_mails import BRAND, TO

ROOT = "https://flowstate.example"
LINKS = AppLinks(ROOT)
PARIS = ZoneInfo("Europe/Paris")
RENDERER = Renderer(BRAND)
SUNDAY = date(2026, 3, 15)


def recipient(full_name: str | None = "Ada Lovelace", language: str | None = None) -> User:
    return User("ada", TO, full_name, True, False, language, None, frozenset(NOTIFICATIONS))


def slot(kind: str, day: date = SUNDAY, hour: int = 9, zone: ZoneInfo = PARIS, item: str = "") -> Slot:
    due_at = datetime(day.year, day.month, day.day, hour, tzinfo=zone).astimezone(UTC)
    return Slot(kind, "ada", day, due_at, zone, item)


def context(built: MailContext | NothingToSend) -> dict[str, Any]:
    assert isinstance(built, MailContext), built
    return dict(built.context)


def mail(kind: str, built: MailContext | NothingToSend) -> Email:
    """What the daemon would send for it, through the same reading as any other job."""
    assert isinstance(built, MailContext), built
    data = msgspec.json.encode({"type": kind, "to": TO, "context": dict(built.context), "locale": built.locale})
    return RENDERER.render(parse_request(kind, data))

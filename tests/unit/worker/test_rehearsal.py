"""What a shadow makes of one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.mail.policy import RecipientStatus
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.shadow.dry_run import DryRun
from flowstate_daemon.worker.lookups import RecipientLoader
from tests.support.clock import FakeClock

RENDERER = Renderer(Brand("FlowState <hello@example.com>", "FlowState", "https://app.example.com"))


class Known:
    """One answer for everybody, or none."""

    def __init__(self, facts: RecipientStatus | None) -> None:
        self._facts = facts

    async def status_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        if self._facts is None:
            raise StoreUnavailableError("Postgres: away")
        return dict.fromkeys(addresses, self._facts)

    async def languages_of(self, addresses: Sequence[str]) -> Mapping[str, str]:
        return dict.fromkeys(addresses, "fr")


def job(name: str, context: dict[str, Any], made_ms: int, *, to: str = "ada@example.org", **more: Any) -> Job:
    data = msgspec.json.encode({"type": name, "to": to, "context": context})
    return Job("7", name, data, DEFAULTS, made_ms, 0, 5, b"[]", **more)


def dry_run(clock: FakeClock, facts: RecipientStatus | None = None, *, asked: bool = False) -> DryRun:
    return DryRun(RENDERER, RecipientLoader(Known(facts), Known(facts)) if asked else None, clock)


async def test_a_mail_is_rendered_in_the_persons_language(clock: FakeClock) -> None:
    """The verdict is worth as much as the way to it: the mail has really been made."""
    welcome = job("welcome", {"name": "Ada"}, clock.now_ms())
    french = await dry_run(clock, RecipientStatus(), asked=True).predict(welcome)
    english = await dry_run(clock).predict(welcome)
    assert (french.outcome, french.recipient) == ("send", "a***@example.org")
    assert french.html_bytes != english.html_bytes > 1_000


@pytest.mark.parametrize(
    ("name", "context", "more", "would", "reason"),
    [
        ("otp", {"otpCode": "482913"}, {"age_s": 601}, "expire", "valid for 10 min"),
        ("otp", {"otpCode": "482913"}, {"age_s": 599}, "send", None),
        ("welcome", {"name": "Ada"}, {"to": "nowhere"}, "fail", "address"),
        ("welcome", {"name": 7}, {}, "fail", "context"),
        ("parcel", {}, {}, "fail", "parcel"),
        ("welcome", {"name": "Ada"}, {"invalid_reason": "the job's data is too long"}, "fail", "too long"),
    ],
)
async def test_verdicts_have_reasons(
    clock: FakeClock, name: str, context: dict[str, Any], more: dict[str, Any], would: str, reason: str | None
) -> None:
    """The same words as in the log of a daemon that sends, and never the code."""
    age_s = more.pop("age_s", 0)
    result = await dry_run(clock).predict(job(name, context, clock.now_ms() - age_s * 1000, **more))
    assert result.outcome == would
    assert (reason or "") in (result.reason or "")
    assert "482913" not in str(result)


async def test_who_wants_no_mail_would_get_none(clock: FakeClock) -> None:
    """Our own list counts, although the worker of old does not know it."""
    facts = RecipientStatus(suppressed=frozenset({"bounced"}))
    result = await dry_run(clock, facts, asked=True).predict(job("welcome", {"name": "Ada"}, clock.now_ms()))
    assert (result.outcome, "bounce" in (result.reason or "")) == ("skip", True)


async def test_postgres_away_does_not_stop_it(clock: FakeClock) -> None:
    """A daemon that sends would wait; a shadow that waited would miss what happens."""
    result = await dry_run(clock, None, asked=True).predict(job("welcome", {"name": "Ada"}, clock.now_ms()))
    assert result.outcome == "send"

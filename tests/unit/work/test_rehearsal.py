"""What a shadow makes of one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.mail.facts import PersonFacts
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.work.people import People
from flowstate_daemon.work.rehearsal import Rehearsal
from tests.support.clock import HandClock

RENDERER = Renderer(Brand("FlowState <hello@example.com>", "FlowState", "https://app.example.com"))


class Known:
    """One answer for everybody, or none."""

    def __init__(self, facts: PersonFacts | None) -> None:
        self._facts = facts

    async def facts_for(self, addresses: Sequence[str]) -> Mapping[str, PersonFacts]:
        if self._facts is None:
            raise Outage("Postgres: away")
        return dict.fromkeys(addresses, self._facts)

    async def languages_of(self, addresses: Sequence[str]) -> Mapping[str, str]:
        return dict.fromkeys(addresses, "fr")


def job(name: str, context: dict[str, Any], made_ms: int, *, to: str = "ada@example.org", **more: Any) -> Job:
    data = msgspec.json.encode({"type": name, "to": to, "context": context})
    return Job("7", name, data, DEFAULTS, made_ms, 0, 5, b"[]", **more)


def rehearsal(clock: HandClock, facts: PersonFacts | None = None, *, asked: bool = False) -> Rehearsal:
    return Rehearsal(RENDERER, People(Known(facts), Known(facts)) if asked else None, clock)


async def test_a_mail_is_rendered_in_the_persons_language(clock: HandClock) -> None:
    """The verdict is worth as much as the way to it: the mail has really been made."""
    welcome = job("welcome", {"name": "Ada"}, clock.now_ms())
    french = await rehearsal(clock, PersonFacts(), asked=True).verdict(welcome)
    english = await rehearsal(clock).verdict(welcome)
    assert (french.would, french.to) == ("send", "a***@example.org")
    assert french.size != english.size > 1_000


@pytest.mark.parametrize(
    ("name", "context", "more", "would", "reason"),
    [
        ("otp", {"otpCode": "482913"}, {"age_s": 601}, "expire", "valid for 10 min"),
        ("otp", {"otpCode": "482913"}, {"age_s": 599}, "send", None),
        ("welcome", {"name": "Ada"}, {"to": "nowhere"}, "fail", "address"),
        ("welcome", {"name": 7}, {}, "fail", "context"),
        ("parcel", {}, {}, "fail", "parcel"),
        ("welcome", {"name": "Ada"}, {"problem": "the job's data is too long"}, "fail", "too long"),
    ],
)
async def test_verdicts_have_reasons(
    clock: HandClock, name: str, context: dict[str, Any], more: dict[str, Any], would: str, reason: str | None
) -> None:
    """The same words as in the log of a daemon that sends, and never the code."""
    age_s = more.pop("age_s", 0)
    verdict = await rehearsal(clock).verdict(job(name, context, clock.now_ms() - age_s * 1000, **more))
    assert verdict.would == would
    assert (reason or "") in (verdict.reason or "")
    assert "482913" not in str(verdict)


async def test_who_wants_no_mail_would_get_none(clock: HandClock) -> None:
    """Our own list counts, although the worker of old does not know it."""
    facts = PersonFacts(suppressed=frozenset({"bounced"}))
    verdict = await rehearsal(clock, facts, asked=True).verdict(job("welcome", {"name": "Ada"}, clock.now_ms()))
    assert (verdict.would, "bounce" in (verdict.reason or "")) == ("skip", True)


async def test_postgres_away_does_not_stop_it(clock: HandClock) -> None:
    """A daemon that sends would wait; a shadow that waited would miss what happens."""
    verdict = await rehearsal(clock, None, asked=True).verdict(job("welcome", {"name": "Ada"}, clock.now_ms()))
    assert verdict.would == "send"

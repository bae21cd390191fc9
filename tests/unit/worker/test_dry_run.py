"""Predictions of shadow mode for one job, and their comparison with what another worker did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.recipients import UserPreferences
from flowstate_daemon.mail.policy import RecipientStatus
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.shadow.dry_run import DryRun, ObservedOutcome, Prediction, matches, observed_outcome
from flowstate_daemon.shadow.observer import JobEvent
from flowstate_daemon.worker.lookups import RecipientLoader
from tests.support.clock import FakeClock

RENDERER = Renderer(Brand("FlowState <hello@example.com>", "FlowState", "https://app.example.com"))


class FixedRecipients:
    """The same status for every address, or an unreachable store."""

    def __init__(self, status: RecipientStatus | None) -> None:
        self._status = status

    async def status_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        if self._status is None:
            raise StoreUnavailableError("Postgres: unreachable")
        return dict.fromkeys(addresses, self._status)

    async def preferences_of(self, addresses: Sequence[str]) -> Mapping[str, UserPreferences]:
        return dict.fromkeys(addresses, UserPreferences(language="fr"))


def job(name: str, context: dict[str, Any], created_ms: int, *, to: str = "ada@example.org", **more: Any) -> Job:
    data = msgspec.json.encode({"type": name, "to": to, "context": context})
    return Job("7", name, data, DEFAULTS, created_ms, 0, 5, b"[]", **more)


def dry_run(clock: FakeClock, status: RecipientStatus | None = None, *, lookup: bool = False) -> DryRun:
    return DryRun(
        RENDERER, RecipientLoader(FixedRecipients(status), FixedRecipients(status), clock) if lookup else None, clock
    )


async def test_dry_run_renders_in_the_recipients_language(clock: FakeClock) -> None:
    """The email is really rendered, so the prediction covers rendering errors."""
    welcome = job("welcome", {"name": "Ada"}, clock.now_ms())
    french = await dry_run(clock, RecipientStatus(), lookup=True).predict(welcome)
    english = await dry_run(clock).predict(welcome)
    assert (french.outcome, french.recipient) == ("send", "a***@example.org")
    assert french.html_bytes != english.html_bytes > 1_000


@pytest.mark.parametrize(
    ("name", "context", "more", "predicted", "reason"),
    [
        ("otp", {"otpCode": "482913"}, {"age_s": 601}, "expire", "valid for 10 min"),
        ("otp", {"otpCode": "482913"}, {"age_s": 599}, "send", None),
        ("welcome", {"name": "Ada"}, {"to": "nowhere"}, "fail", "address"),
        ("welcome", {"name": 7}, {}, "send", None),
        ("task-reminder", {"taskTitle": 7}, {}, "fail", "context"),
        ("postcard", {}, {}, "fail", "postcard"),
        ("welcome", {"name": "Ada"}, {"invalid_reason": "the job's data is too long"}, "fail", "too long"),
    ],
)
async def test_prediction_has_a_reason(
    clock: FakeClock, name: str, context: dict[str, Any], more: dict[str, Any], predicted: str, reason: str | None
) -> None:
    """The reasons are those of a daemon that sends, and never contain the code."""
    age_s = more.pop("age_s", 0)
    result = await dry_run(clock).predict(job(name, context, clock.now_ms() - age_s * 1000, **more))
    assert result.outcome == predicted
    assert (reason or "") in (result.reason or "")
    assert "482913" not in str(result)


async def test_suppressed_address_is_predicted_as_skipped(clock: FakeClock) -> None:
    """Our suppression list counts, although the legacy worker does not use it."""
    status = RecipientStatus(suppressed=frozenset({"bounced"}))
    result = await dry_run(clock, status, lookup=True).predict(job("welcome", {"name": "Ada"}, clock.now_ms()))
    assert (result.outcome, "bounce" in (result.reason or "")) == ("skip", True)


async def test_prediction_does_not_wait_for_postgres(clock: FakeClock) -> None:
    """A daemon that sends would wait; a shadow that waited would miss events."""
    result = await dry_run(clock, None, lookup=True).predict(job("welcome", {"name": "Ada"}, clock.now_ms()))
    assert result.outcome == "send"


@pytest.mark.parametrize(
    ("event", "observed"),
    [
        (JobEvent("completed", "1", ""), ObservedOutcome("sent")),
        (JobEvent("completed", "1", "null"), ObservedOutcome("sent")),
        (JobEvent("completed", "1", '{"id": "re_1"}'), ObservedOutcome("sent")),
        (JobEvent("completed", "1", "[1, broken"), ObservedOutcome("sent")),
        (JobEvent("completed", "1", '"\ud83d"'), ObservedOutcome("sent")),
        (JobEvent("completed", "1", '{"skipped": "unsubscribed"}'), ObservedOutcome("skipped", "unsubscribed")),
        (JobEvent("completed", "1", '{"expired": "too old"}'), ObservedOutcome("expired", "too old")),
        (JobEvent("completed", "1", '{"skipped": false, "expired": ""}'), ObservedOutcome("sent")),
        (JobEvent("failed", "1", "Missing helper"), ObservedOutcome("failed", "Missing helper")),
        (JobEvent("failed", "1"), ObservedOutcome("failed")),
    ],
)
def test_observed_outcome_follows_event_and_return_value(event: JobEvent, observed: ObservedOutcome) -> None:
    """Handlers of Node return anything; this daemon returns whether it did not send."""
    assert observed_outcome(event) == observed


def test_observed_reason_is_cut() -> None:
    """A stack trace may take the place of a reason."""
    assert len(observed_outcome(JobEvent("failed", "1", "x" * 10_000)).reason or "") == 300


@pytest.mark.parametrize("predicted", ["send", "skip", "expire", "fail"])
@pytest.mark.parametrize("observed", ["sent", "skipped", "expired", "failed"])
def test_prediction_matches_if_both_send_or_both_do_not(predicted: str, observed: str) -> None:
    """Skipped, expired and failed differ only in the reason."""
    same = (predicted == "send") == (observed == "sent")
    assert matches(Prediction("otp", predicted), ObservedOutcome(observed)) is same  # type: ignore[arg-type]

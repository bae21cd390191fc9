"""A shadow's verdict beside what another worker did."""

from __future__ import annotations

import pytest

from flowstate_daemon.shadow.dry_run import ObservedOutcome, Prediction, matches, observed_outcome
from flowstate_daemon.shadow.observer import JobEvent


@pytest.mark.parametrize(
    ("sign", "observed"),
    [
        (JobEvent("completed", "1", ""), ObservedOutcome("sent")),
        (JobEvent("completed", "1", "null"), ObservedOutcome("sent")),
        (JobEvent("completed", "1", '{"id": "re_1"}'), ObservedOutcome("sent")),
        (JobEvent("completed", "1", "[1, broken"), ObservedOutcome("sent")),
        (JobEvent("completed", "1", '"\ud83d"'), ObservedOutcome("sent")),
        (JobEvent("completed", "1", '{"skipped": "unsubscribed"}'), ObservedOutcome("skipped", "unsubscribed")),
        (JobEvent("completed", "1", '{"expired": "too old"}'), ObservedOutcome("expired", "too old")),
        (JobEvent("failed", "1", "Missing helper"), ObservedOutcome("failed", "Missing helper")),
        (JobEvent("failed", "1"), ObservedOutcome("failed")),
    ],
)
def test_an_end_says_what_was_done(sign: JobEvent, observed: ObservedOutcome) -> None:
    """Node's handlers return anything; a daemon of ours says when it did not send."""
    assert observed_outcome(sign) == observed


def test_reasons_are_not_endless() -> None:
    """A stack trace may stand where a reason is meant to be."""
    assert len(observed_outcome(JobEvent("failed", "1", "x" * 10_000)).reason or "") == 300


@pytest.mark.parametrize("would", ["send", "skip", "expire", "fail"])
@pytest.mark.parametrize("did", ["sent", "skipped", "expired", "failed"])
def test_what_counts_is_whether_the_mail_goes_out(would: str, did: str) -> None:
    """Ways not to send differ in words only."""
    assert matches(Prediction("otp", would), ObservedOutcome(did)) is ((would == "send") == (did == "sent"))  # type: ignore[arg-type]

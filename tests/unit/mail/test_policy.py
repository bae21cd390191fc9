"""The decision to send or skip: the order of rules and the decisions that are recorded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.policy import (
    ALL_KINDS,
    UNKNOWN_RECIPIENT,
    Decision,
    PolicyResult,
    RecipientStatus,
    decide,
    expires_at_ms,
)
from tests.unit.mail.rendered_mails import sample

MADE = 1_772_438_400_000
CODES = ("otp", "password-reset")
LEAVABLE = tuple(name for name, kind in KINDS.items() if kind.unsubscribable)
REASONS = ["bounced", "complained", "manual", "suppressed", "something-new"]
SUPPRESSED = st.frozensets(st.sampled_from(REASONS))
UNSUBSCRIBED = st.frozensets(st.sampled_from([ALL_KINDS, *KINDS]))


def judged(
    kind: str, facts: RecipientStatus | None = UNKNOWN_RECIPIENT, age_ms: int = 1_000, **changes: object
) -> PolicyResult:
    return decide(sample(kind, **changes), facts, now_ms=MADE + age_ms, created_ms=MADE)


@pytest.mark.parametrize("kind", CODES)
def test_decide_when_code_expires(kind: str) -> None:
    """A code is sent until the end of the lifetime that its email states."""
    assert judged(kind, expiresIn="15 minutes", age_ms=899_999).send
    late = judged(kind, expiresIn="15 minutes", age_ms=900_000)
    assert (late.send, late.outcome) == (False, "expired")
    assert late.reason == "the code was valid for 15 min and is 900 s old"
    assert late.decisions == (Decision("expiry", "expired", late.reason),)


@pytest.mark.parametrize("kind", CODES)
def test_decide_when_code_has_no_lifetime(kind: str) -> None:
    """Producers may omit the lifetime, which is then ten minutes."""
    assert judged(kind, expiresIn=None, age_ms=599_999).send
    assert judged(kind, expiresIn=None, age_ms=600_000).outcome == "expired"


def test_decide_when_producer_clock_is_ahead() -> None:
    """A timestamp in the future does not expire a code."""
    assert judged("otp", age_ms=-5_000).send


def test_decide_when_kind_does_not_expire() -> None:
    """A welcome that waited for a week is sent."""
    for kind in KINDS.keys() - set(CODES):
        assert expires_at_ms(sample(kind), MADE) is None
        assert judged(kind, age_ms=10**10).send


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", REASONS)
def test_decide_when_suppressed(kind: str, reason: str) -> None:
    """A hard bounce and the provider's list stop all emails; complaints and operators stop all but codes."""
    decision = judged(kind, RecipientStatus(suppressed=frozenset({reason})))
    assert decision.send == (reason not in {"bounced", "suppressed"} and kind in CODES)
    (step,) = (step for step in decision.decisions if step.check == "suppression")
    assert step.reason
    if not decision.send:
        assert (decision.outcome, decision.reason) == ("skipped", step.reason)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
def test_decide_when_unsubscribed(kind: str, whole: bool) -> None:
    """One kind or all kinds that can be unsubscribed from are skipped; codes and invitations are sent."""
    decision = judged(kind, RecipientStatus(unsubscribed=frozenset({ALL_KINDS if whole else kind})))
    assert decision.send == (kind not in LEAVABLE)
    assert (decision.outcome == "skipped") == (kind in LEAVABLE)
    assert ("preference" in {step.check for step in decision.decisions}) == (kind in LEAVABLE)


def test_decide_when_unsubscribed_from_another_kind() -> None:
    """Unsubscribing from reports does not affect reminders."""
    assert judged("task-reminder", RecipientStatus(unsubscribed=frozenset({"focus-report"}))).send


def test_decisions_when_sent() -> None:
    """An email that is sent has a passed decision of every check."""
    assert judged("otp").decisions == (Decision("expiry", "pass"), Decision("suppression", "pass"))
    assert judged("welcome").decisions == (Decision("suppression", "pass"),)
    assert judged("focus-report").decisions == (Decision("suppression", "pass"), Decision("preference", "pass"))


def test_decide_when_lookup_failed() -> None:
    """Without an answer of the database the email is sent, and the decisions say that the lookup failed."""
    decision = judged("focus-report", None)
    assert decision.send
    assert [(step.check, step.result) for step in decision.decisions] == [
        ("suppression", "unknown"),
        ("preference", "unknown"),
    ]
    assert judged("otp", None, age_ms=600_000).outcome == "expired"


@given(st.sampled_from(sorted(KINDS)), SUPPRESSED, UNSUBSCRIBED, st.integers(-1_000, 2_000_000))
def test_decide_checks_in_order(
    kind: str, suppressed: frozenset[str], unsubscribed: frozenset[str], age_ms: int
) -> None:
    """Expiry, then suppression, then preference; only the last decision refuses; no code leaks."""
    decision = judged(kind, RecipientStatus(suppressed, unsubscribed), age_ms)
    order = [step.check for step in decision.decisions]
    assert order == [step for step in ("expiry", "suppression", "preference") if step in order]
    assert all(step.result == "pass" for step in decision.decisions[:-1])
    assert decision.send == (decision.decisions[-1].result == "pass")
    assert (decision.outcome is None) == (decision.reason is None) == decision.send
    ends = expires_at_ms(sample(kind), MADE)
    if ends is not None and MADE + age_ms >= ends:
        assert decision.outcome == "expired"
    elif {"bounced", "suppressed"} & suppressed:
        assert decision.outcome == "skipped"
    assert "493027" not in str(decision)
    assert "815264" not in str(decision)


def test_code_of_unknown_age_expires() -> None:
    """A job without a valid time may be old, and a code is never sent late; the reason says so."""
    result = decide(sample("otp"), RecipientStatus(), now_ms=MADE, created_ms=0)
    assert (result.send, result.outcome) == (False, "expired")
    assert result.reason == "the job has no valid timestamp, so the age of the code is unknown"
    assert decide(sample("welcome"), RecipientStatus(), now_ms=MADE, created_ms=0).send

"""Send or skip: which rule wins, and what the chain says."""

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
SUPPRESSED = st.frozensets(st.sampled_from(["bounced", "complained", "manual", "something-new"]))
UNSUBSCRIBED = st.frozensets(st.sampled_from([ALL_KINDS, *KINDS]))


def judged(
    kind: str, facts: RecipientStatus | None = UNKNOWN_RECIPIENT, age_ms: int = 1_000, **changes: object
) -> PolicyResult:
    return decide(sample(kind, **changes), facts, now_ms=MADE + age_ms, created_ms=MADE)


@pytest.mark.parametrize("kind", CODES)
def test_a_code_is_sent_until_its_last_millisecond(kind: str) -> None:
    """The life that the mail promises is the life that counts."""
    assert judged(kind, expiresIn="15 minutes", age_ms=899_999).send
    late = judged(kind, expiresIn="15 minutes", age_ms=900_000)
    assert (late.send, late.outcome) == (False, "expired")
    assert late.reason == "the code was valid for 15 min and is 900 s old"
    assert late.decisions == (Decision("expiry", "expired", late.reason),)


@pytest.mark.parametrize("kind", CODES)
def test_a_code_without_words_lives_ten_minutes(kind: str) -> None:
    """Producers may leave the lifetime out."""
    assert judged(kind, expiresIn=None, age_ms=599_999).send
    assert judged(kind, expiresIn=None, age_ms=600_000).outcome == "expired"


def test_a_clock_that_is_ahead_expires_nothing() -> None:
    """A producer's clock may be ahead of ours."""
    assert judged("otp", age_ms=-5_000).send


def test_other_mails_do_not_age() -> None:
    """A welcome that had to wait for a week is still a welcome."""
    for kind in KINDS.keys() - set(CODES):
        assert expires_at_ms(sample(kind), MADE) is None
        assert judged(kind, age_ms=10**10).send


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", ["bounced", "complained", "manual", "something-new"])
def test_suppression(kind: str, reason: str) -> None:
    """A hard bounce stops everything; a complaint, or an operator, stops everything but codes."""
    decision = judged(kind, RecipientStatus(suppressed=frozenset({reason})))
    assert decision.send == (reason != "bounced" and kind in CODES)
    (step,) = (step for step in decision.decisions if step.check == "suppression")
    assert step.reason
    if not decision.send:
        assert (decision.outcome, decision.reason) == ("skipped", step.reason)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
def test_unsubscribing(kind: str, whole: bool) -> None:
    """It stops the kinds that can be left, one or all; nobody can lose a code or an invitation by it."""
    decision = judged(kind, RecipientStatus(unsubscribed=frozenset({ALL_KINDS if whole else kind})))
    assert decision.send == (kind not in LEAVABLE)
    assert (decision.outcome == "skipped") == (kind in LEAVABLE)
    assert ("preference" in {step.check for step in decision.decisions}) == (kind in LEAVABLE)


def test_another_kind_is_another_matter() -> None:
    """Leaving reports leaves reminders alone."""
    assert judged("task-reminder", RecipientStatus(unsubscribed=frozenset({"focus-report"}))).send


def test_the_chain_tells_the_whole_way() -> None:
    """A mail that is sent has passed every step, and says so."""
    assert judged("otp").decisions == (Decision("expiry", "pass"), Decision("suppression", "pass"))
    assert judged("welcome").decisions == (Decision("suppression", "pass"),)
    assert judged("focus-report").decisions == (Decision("suppression", "pass"), Decision("preference", "pass"))


def test_what_cannot_be_known_is_said() -> None:
    """Without an answer from the database the mail goes, and the chain does not claim that anybody looked."""
    decision = judged("focus-report", None)
    assert decision.send
    assert [(step.check, step.result) for step in decision.decisions] == [
        ("suppression", "unknown"),
        ("preference", "unknown"),
    ]
    assert judged("otp", None, age_ms=600_000).outcome == "expired"


@given(st.sampled_from(sorted(KINDS)), SUPPRESSED, UNSUBSCRIBED, st.integers(-1_000, 2_000_000))
def test_the_order_of_rules(kind: str, suppressed: frozenset[str], unsubscribed: frozenset[str], age_ms: int) -> None:
    """Expiry comes before suppression, suppression before preference; only the last step refuses; no code leaks."""
    decision = judged(kind, RecipientStatus(suppressed, unsubscribed), age_ms)
    order = [step.check for step in decision.decisions]
    assert order == [step for step in ("expiry", "suppression", "preference") if step in order]
    assert all(step.result == "pass" for step in decision.decisions[:-1])
    assert decision.send == (decision.decisions[-1].result == "pass")
    assert (decision.outcome is None) == (decision.reason is None) == decision.send
    ends = expires_at_ms(sample(kind), MADE)
    if ends is not None and MADE + age_ms >= ends:
        assert decision.outcome == "expired"
    elif "bounced" in suppressed:
        assert decision.outcome == "skipped"
    assert "493027" not in str(decision)
    assert "815264" not in str(decision)

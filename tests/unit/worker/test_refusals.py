"""Whether a refusal concerns every email or only the refused one."""

from __future__ import annotations

import pytest

from flowstate_daemon.sending import refusals
from flowstate_daemon.sending.refusals import Cause, RefusalHistory

ADA, BEN, CLEO = ("1", 1), ("2", 2), ("3", 3)


@pytest.fixture
def history() -> RefusalHistory:
    return RefusalHistory()


def test_many_in_a_row_concern_all_mails(history: RefusalHistory) -> None:
    """Whichever emails they were."""
    found = [history.record_refused([(str(number), number)], 5) for number in range(6)]
    assert found == [Cause.UNKNOWN] * 4 + [Cause.ALL_MAILS] * 2


def test_an_accepted_mail_starts_the_count_again(history: RefusalHistory) -> None:
    """Some emails are accepted, so refusals do not concern all."""
    for number in range(20):
        assert history.record_refused([(str(number), number)], 2) is Cause.UNKNOWN
        history.record_accepted()


def test_mail_refused_although_others_were_accepted_is_the_cause(history: RefusalHistory) -> None:
    """It fails after three refusals, and does not close the gate again until then."""
    assert history.record_refused([ADA], 1) is Cause.ALL_MAILS
    history.record_accepted()
    found = [(history.record_refused([ADA], 1), history.should_fail(ADA)) for _ in range(2)]
    assert found == [(Cause.THESE_MAILS, False), (Cause.THESE_MAILS, True)]
    assert history.record_refused([BEN], 1) is Cause.ALL_MAILS


def test_request_with_a_new_mail_is_not_blamed(history: RefusalHistory) -> None:
    """Only if every email was refused before the last acceptance is the cause among them."""
    history.record_refused([ADA, BEN], 5)
    history.record_accepted()
    assert history.record_refused([ADA, CLEO], 5) is Cause.UNKNOWN
    assert history.record_refused([ADA, BEN], 5) is Cause.THESE_MAILS


def test_delay_grows_up_to_a_minute(history: RefusalHistory) -> None:
    """A code is tried again soon, an email that is never accepted once a minute."""
    delays = []
    for _ in range(7):
        history.record_refused([ADA], 5)
        delays.append(history.delay_ms(ADA))
    assert delays == [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]


def test_memory_is_bounded(history: RefusalHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest emails are forgotten first."""
    monkeypatch.setattr(refusals, "MAX_REMEMBERED", 2)
    for member in (ADA, BEN, CLEO):
        history.record_refused([member], 9)
    history.record_accepted()
    assert history.record_refused([ADA], 9) is Cause.UNKNOWN
    assert history.record_refused([CLEO], 9) is Cause.THESE_MAILS

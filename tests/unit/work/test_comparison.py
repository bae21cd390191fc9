"""A shadow's verdict beside what another worker did."""

from __future__ import annotations

import pytest

from flowstate_daemon.queue.onlooker import Sign
from flowstate_daemon.work.comparison import Deed, agree, deed_of
from flowstate_daemon.work.rehearsal import Verdict


@pytest.mark.parametrize(
    ("sign", "deed"),
    [
        (Sign("completed", "1", ""), Deed("sent")),
        (Sign("completed", "1", "null"), Deed("sent")),
        (Sign("completed", "1", '{"id": "re_1"}'), Deed("sent")),
        (Sign("completed", "1", "[1, broken"), Deed("sent")),
        (Sign("completed", "1", '"\ud83d"'), Deed("sent")),
        (Sign("completed", "1", '{"skipped": "unsubscribed"}'), Deed("skipped", "unsubscribed")),
        (Sign("completed", "1", '{"expired": "too old"}'), Deed("expired", "too old")),
        (Sign("failed", "1", "Missing helper"), Deed("failed", "Missing helper")),
        (Sign("failed", "1"), Deed("failed")),
    ],
)
def test_an_end_says_what_was_done(sign: Sign, deed: Deed) -> None:
    """Node's handlers return anything; a daemon of ours says when it did not send."""
    assert deed_of(sign) == deed


def test_reasons_are_not_endless() -> None:
    """A stack trace may stand where a reason is meant to be."""
    assert len(deed_of(Sign("failed", "1", "x" * 10_000)).reason or "") == 300


@pytest.mark.parametrize("would", ["send", "skip", "expire", "fail"])
@pytest.mark.parametrize("did", ["sent", "skipped", "expired", "failed"])
def test_what_counts_is_whether_the_mail_goes_out(would: str, did: str) -> None:
    """Ways not to send differ in words only."""
    assert agree(Verdict("otp", would), Deed(did)) is ((would == "send") == (did == "sent"))  # type: ignore[arg-type]

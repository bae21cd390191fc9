"""What `check` makes of the provider's word on the key."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.config import load
from flowstate_daemon.cli.check_provider import judge_key
from flowstate_daemon.cli.verdict import Grade
from flowstate_daemon.delivery.resend_gateway import Check, Standing

CONFIG = load({"RESEND_FROM_EMAIL": "FlowState <hello@Mail.example.com>"}, sending=True)


@pytest.mark.parametrize(
    ("found", "grades", "away"),
    [
        (Check(Standing.FULL, domains={"mail.example.com": "verified"}), [Grade.OK, Grade.OK], False),
        (Check(Standing.FULL, domains={"mail.example.com": "pending"}), [Grade.OK, Grade.FAIL], False),
        (Check(Standing.FULL, domains={"other.example": "verified"}), [Grade.OK, Grade.FAIL], False),
        (Check(Standing.FULL), [Grade.OK, Grade.FAIL], False),
        (Check(Standing.SENDING), [Grade.OK, Grade.OK], False),
        (Check(Standing.REFUSED, "API key is invalid"), [Grade.FAIL], False),
        (Check(Standing.UNKNOWN, "timeout"), [Grade.FAIL], True),
    ],
)
def test_key_and_domain_are_judged(found: Check, grades: list[Grade], away: bool) -> None:
    """A refused key is a failure, an unreachable provider another one, an unverified domain a third."""
    verdicts = judge_key(found, CONFIG)
    assert [verdict.grade for verdict in verdicts] == grades
    assert verdicts[0].unreachable is away

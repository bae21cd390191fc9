"""What `check` makes of the provider's word on the key."""

from __future__ import annotations

import pytest

from flowstate_daemon.cli.check.provider import evaluate_key
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.config.loader import load
from flowstate_daemon.delivery.resend_gateway import KeyCheck, KeyStatus

CONFIG = load({"RESEND_FROM_EMAIL": "FlowState <hello@Mail.example.com>"}, sending=True)


@pytest.mark.parametrize(
    ("found", "grades", "away"),
    [
        (KeyCheck(KeyStatus.FULL, domains={"mail.example.com": "verified"}), [Level.OK, Level.OK], False),
        (KeyCheck(KeyStatus.FULL, domains={"mail.example.com": "pending"}), [Level.OK, Level.FAIL], False),
        (KeyCheck(KeyStatus.FULL, domains={"other.example": "verified"}), [Level.OK, Level.FAIL], False),
        (KeyCheck(KeyStatus.FULL), [Level.OK, Level.FAIL], False),
        (KeyCheck(KeyStatus.SENDING), [Level.OK, Level.OK], False),
        (KeyCheck(KeyStatus.REFUSED, "API key is invalid"), [Level.FAIL], False),
        (KeyCheck(KeyStatus.UNKNOWN, "timeout"), [Level.FAIL], True),
    ],
)
def test_key_and_domain_are_judged(found: KeyCheck, grades: list[Level], away: bool) -> None:
    """A refused key is a failure, an unreachable provider another one, an unverified domain a third."""
    results = evaluate_key(found, CONFIG)
    assert [result.grade for result in results] == grades
    assert results[0].unreachable is away

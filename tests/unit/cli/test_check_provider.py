"""The checks of the provider, as pure functions of what it reports about the key."""

from __future__ import annotations

import pytest

from flowstate_daemon.cli.check.provider import evaluate_key
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.config.loader import load
from flowstate_daemon.delivery.resend_gateway import KeyCheck, KeyStatus

CONFIG = load({"RESEND_FROM_EMAIL": "FlowState <hello@Mail.example.com>", "RESEND_API_KEY": "re_key"}, sending=True)


@pytest.mark.parametrize(
    ("key_check", "levels", "unreachable"),
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
def test_levels_of_key_and_domain(key_check: KeyCheck, levels: list[Level], unreachable: bool) -> None:
    """A refused key, an unreachable provider and an unverified domain are different failures."""
    results = evaluate_key(key_check, CONFIG)
    assert [result.level for result in results] == levels
    assert results[0].unreachable is unreachable


@pytest.mark.parametrize("sender", ["a@münchen.example", "Café <a@MÜNCHEN.example>", "a@XN--MNCHEN-3YA.example"])
@pytest.mark.parametrize("listed", ["münchen.example", "xn--mnchen-3ya.example", "Xn--Mnchen-3ya.Example"])
def test_international_domain_is_found_in_either_form(sender: str, listed: str) -> None:
    """The provider lists a domain in one form, and the setting may have the other."""
    config = load({"RESEND_FROM_EMAIL": sender, "FLOWSTATE_DELIVERY": "outbox"}, sending=True)
    results = evaluate_key(KeyCheck(KeyStatus.FULL, domains={listed: "verified"}), config)
    assert [result.level for result in results] == [Level.OK, Level.OK]

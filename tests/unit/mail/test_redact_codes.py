"""Redaction of the data of settled jobs."""

from __future__ import annotations

import json

import pytest

from flowstate_daemon.base.redaction import REDACTED
from flowstate_daemon.mail.kinds import UNREADABLE_DATA, redact_codes

CODE = "493817"


@pytest.mark.parametrize("kind", ["otp", "password-reset", "magic-code", "__default__", "welcome"])
def test_redact_codes_when_any_kind(kind: str) -> None:
    """Codes are redacted also in jobs of kinds that this daemon does not know."""
    data = {"type": "otp", "to": "ada@example.org", "context": {"otpCode": CODE, "expiresIn": "10 minutes"}}
    left = json.loads(redact_codes(kind, json.dumps(data).encode()))
    assert left == {**data, "context": {"otpCode": REDACTED, "expiresIn": "10 minutes"}}


@pytest.mark.parametrize("data", [{"otpCode": 493817}, {"mails": [{"otpCode": CODE}]}, {"otpCode": {"code": CODE}}])
def test_redact_codes_when_nested(data: object) -> None:
    """A code is redacted at any depth."""
    assert CODE not in redact_codes("magic-code", json.dumps(data).encode()).decode()


@pytest.mark.parametrize("data", [b'{"otpCode": "493817', b"[" * 100_000 + b'"otpCode"', b'{"otpCode": "\xff"'])
def test_redact_codes_when_data_is_unreadable(data: bytes) -> None:
    """Unreadable data may contain a code and is replaced completely."""
    assert redact_codes("magic-code", data) == UNREADABLE_DATA


@pytest.mark.parametrize("dirt", [b"\\ud83d", b"\x0b", b"\xff", b"\\u0000"])
def test_redact_codes_when_data_is_dirty(dirt: bytes) -> None:
    """Dirt does not hide the code, and the rest of the data stays for the operator."""
    left = redact_codes("magic-code", b'{"otpCode": "493817", "note": "x' + dirt + b'", "to": "ada@example.org"}')
    assert json.loads(left)["otpCode"] == REDACTED
    assert json.loads(left)["to"] == "ada@example.org"


def test_redact_codes_when_no_secret() -> None:
    """Data without secrets stays for the operator who looks at the job."""
    assert redact_codes("welcome", b'{"context": {"name": "Ada"}}') == b""
    assert redact_codes("welcome", b'{"context":{"name":"otpCode"}}') == b'{"context":{"name":"otpCode"}}'

"""What is left of the data of a job that has ended."""

from __future__ import annotations

import json

import pytest

from flowstate_daemon.base.redaction import REDACTED
from flowstate_daemon.mail.kinds import UNREADABLE_DATA, redact_codes

CODE = "493817"


@pytest.mark.parametrize("kind", ["otp", "password-reset", "magic-code", "__default__", "welcome"])
def test_no_code_stays_whatever_the_job_is_called(kind: str) -> None:
    """A backend may know kinds that this daemon does not know; the job fails, and its code goes."""
    data = {"type": "otp", "to": "ada@example.org", "context": {"otpCode": CODE, "expiresIn": "10 minutes"}}
    left = json.loads(redact_codes(kind, json.dumps(data).encode()))
    assert left == {**data, "context": {"otpCode": REDACTED, "expiresIn": "10 minutes"}}


@pytest.mark.parametrize("data", [{"otpCode": 493817}, {"mails": [{"otpCode": CODE}]}, {"otpCode": {"code": CODE}}])
def test_a_code_is_found_wherever_it_stands(data: object) -> None:
    """An unknown kind has fields of its own."""
    assert CODE not in redact_codes("magic-code", json.dumps(data).encode()).decode()


@pytest.mark.parametrize("data", [b'{"otpCode": "493817', b"[" * 100_000 + b'"otpCode"', b'{"otpCode": "\xff"}'])
def test_of_what_cannot_be_read_nothing_is_left(data: bytes) -> None:
    """It may hold a code."""
    assert redact_codes("magic-code", data) == UNREADABLE_DATA


def test_other_data_is_left_alone() -> None:
    """A person who looks after a failed job wants to see what was asked for."""
    assert redact_codes("welcome", b'{"context": {"name": "Ada"}}') == b""
    assert redact_codes("welcome", b'{"context":{"name":"otpCode"}}') == b'{"context":{"name":"otpCode"}}'

"""Validation of email addresses."""

from __future__ import annotations

import pytest
from email_validator import validate_email
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.mail.address import PLAIN, RESERVED, parse_address


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ada@example.org", "ada@example.org"),
        ("Ada.Lovelace+x@Example.COM", "Ada.Lovelace+x@example.com"),
        ("ada@bücher.de", "ada@xn--bcher-kva.de"),
        ("ada@xn--bcher-kva.de", "ada@xn--bcher-kva.de"),
        ("ada@flowstate.test", "ada@flowstate.test"),
        ("ada@flowstate.example", "ada@flowstate.example"),
        ("delivered+label@resend.dev", "delivered+label@resend.dev"),
        ("o'hara@example.org", "o'hara@example.org"),
    ],
)
def test_parse_address_when_valid(written: str, read: str) -> None:
    """Ordinary, international and example addresses are accepted, in ASCII."""
    assert parse_address(written) == read


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ada@localhost",
        "ada@printer.local",
        "ada@flowstate.invalid",
        "Ada <ada@example.org>",
        "<ada@example.org>",
        '"ada l"@example.org',
        "ada@[127.0.0.1]",
        "ada@1.2.3.4",
        "adä@example.org",
        " ada@example.org",
        "ada@example.org\n",
        "ada@example.org\r\nBcc: eve@example.org",
        "ada@example.org,eve@example.org",
        "ada@example.org eve@example.org",
        "ada\0@example.org",
        "ada\u202e@example.org",
        "ada@exa\u200bmple..org",
        "ada@xn--zzzzzz.de",
        "a" * 1_000_000 + "@example.org",
    ],
)
def test_parse_address_when_invalid(written: str) -> None:
    """Anything but a bare address is rejected with the broken rule and without the address."""
    with pytest.raises(InvalidDataError) as caught:
        parse_address(written)
    reason = caught.value.reason
    assert reason.startswith("Expected an email address")
    assert "`$.to`" in reason
    assert len(reason) < 250
    for part in ("ada@", "adä", "example", "zzzz", "127", "eve@"):
        assert part not in reason


@given(st.from_regex(PLAIN, fullmatch=True).filter(lambda text: text.rpartition(".")[2] not in RESERVED))
def test_parse_address_when_plain(text: str) -> None:
    """The fast path accepts only what the validator returns unchanged."""
    assert parse_address(text) == text
    assert validate_email(text, check_deliverability=False, test_environment=True).ascii_email == text


def test_parse_address_when_very_long() -> None:
    """A hostile megabyte causes no backtracking."""
    with pytest.raises(InvalidDataError):
        parse_address("a." * 500_000 + "@" + "a-" * 500_000)

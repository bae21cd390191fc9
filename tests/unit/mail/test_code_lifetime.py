"""Parsing of the lifetime of codes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.code_lifetime import DAY_S, DEFAULT_S, parse_lifetime


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10 minutes", 600),
        ("1 hour", 3_600),
        ("15 min", 900),
        ("15min.", 900),
        ("5m", 300),
        ("1 h 30", 5_400),
        ("1h30", 5_400),
        ("1h30min", 5_400),
        ("1 hour and 30 minutes", 5_400),
        ("1 h 30 s", 3_630),
        ("90 seconds", 90),
        ("1.5 hours", 5_400),
        ("1,5 heure", 5_400),
        ("2 heures", 7_200),
        ("dix minutes", 600),
        ("une heure", 3_600),
        ("une demi-heure", 1_800),
        ("half an hour", 1_800),
        ("an hour", 3_600),
        ("forty-five minutes", 2_700),
        ("fifteen minutes", 900),
        ("10\N{NO-BREAK SPACE}minutes", 600),
        ("  20   Minutes ", 1_200),
        ("within 20 minutes of this mail", 1_200),
        ("dans 5 minutes", 300),
        ("10-minute", 600),
        ("1 jour", DAY_S),
        ("24 hours", DAY_S),
        ("3 days", DAY_S),
        ("999999 h", DAY_S),
    ],
)
def test_parse_lifetime_when_valid(text: str, seconds: int) -> None:
    """English and French, short and long forms; never more than a day."""
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "soon",
        "10",
        "600",
        "0 minutes",
        "10 monkeys",
        "at 10:30",
        "2026-03-02T08:10:00Z",
        "10 m²x",
        "1e9",
        "²h",
    ],
)
def test_parse_lifetime_when_invalid(text: str | None) -> None:
    """Unknown text and lifetimes below one second mean ten minutes."""
    assert parse_lifetime(text) == DEFAULT_S


@given(st.text(alphabet="0123456789 ,.-:hmsdjiunteoraé\N{NO-BREAK SPACE}", max_size=80) | st.text())
def test_parse_lifetime_when_any_text(text: str) -> None:
    """Any text gives between a second and a day, without an error."""
    assert 1 <= parse_lifetime(text) <= DAY_S


def test_parse_lifetime_when_very_long() -> None:
    """Only the start of a long text is parsed."""
    assert parse_lifetime("1 " * 1_000_000 + "5 min") == DEFAULT_S

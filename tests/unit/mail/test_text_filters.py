"""Text filters of the templates."""

from __future__ import annotations

import pytest

from flowstate_daemon.mail.text_filters import one_line, truncate


@pytest.mark.parametrize(
    ("text", "max_length", "expected"),
    [
        ("short", 10, "short"),
        ("exactly 10", 10, "exactly 10"),
        ("one two three", 10, "one two…"),
        ("abcdefghijklmnop", 10, "abcdefghi…"),
        ("a bcdefghijklmnop", 10, "a bcdefgh…"),
    ],
)
def test_truncate(text: str, max_length: int, expected: str) -> None:
    """Cut between two words if one ends near the limit, else within a word."""
    assert truncate(text, max_length) == expected
    assert len(expected) <= max_length


def test_one_line() -> None:
    """Line breaks of every sort become spaces and invisible controls vanish; joined emoji stay whole."""
    assert one_line("a\r\nb\u2028c\x85d\te\0\x1b\u202ef") == "a b c d ef"
    assert one_line("👩‍👩‍👧‍👦 ❤️") == "👩‍👩‍👧‍👦 ❤️"

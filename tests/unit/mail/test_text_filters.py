"""Text filters of the templates."""

from __future__ import annotations

import pytest

from flowstate_daemon.mail.text_filters import truncate

SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"  # its flag, made of tags


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


@pytest.mark.parametrize(
    "cluster",
    ["👩‍👩‍👧‍👦", SCOTLAND, "🇫🇷", "❤️", "e\u0301", "👍🏽", "क्षि"],
)
@pytest.mark.parametrize("offset", range(12))
def test_truncate_cuts_no_cluster(cluster: str, offset: int) -> None:
    """What people see as one character is shown whole or not at all, wherever the limit falls."""
    shown = truncate("x" * offset + cluster * 40, 60)
    assert len(shown) <= 60
    kept = shown.removesuffix("…").removeprefix("x" * offset)
    assert kept.replace(cluster, "") == ""
    assert len(kept) > 60 - 2 * len(cluster) - offset - 1

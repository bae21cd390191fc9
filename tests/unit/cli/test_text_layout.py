"""Tables at any width: nothing is lost, no line is too long, wide characters count as two cells."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from flowstate_daemon.cli.text_layout import fold, layout_fields, layout_table

ALPHABET = string.ascii_letters + string.digits + "é日本語한글👍🏽️❤🇫🇷\u0301\u200d\xa0-:/."
TEXTS = st.lists(st.text(ALPHABET, max_size=90), max_size=3).map(" ".join)
COLUMNS = ("when (UTC)", "kind", "job", "attempt", "outcome", "decisions", "provider")
DECISIONS = "suppression: pass\npreference: skip (the recipient has unsubscribed from this kind of email)"
PROVIDER = "2026-03-02 08:00:01 bounced: 550 5.1.1 <ada@example.org>: user unknown; see https://example.org/help"
ROW = ("2026-03-02 08:00:00", "project-invitation", "scheduled.task-reminder.20260302.abc", "1", "skipped")


def squeezed(lines: list[str]) -> str:
    """The text without blanks, at which it may have been folded."""
    return "".join("".join(lines).split(" "))


@pytest.mark.parametrize("width", [1, 2, 10, 20, 40, 60, 80, 100, 120, 200, None])
def test_nothing_is_lost_at_any_width(width: int | None) -> None:
    """Every column and every word of `explain`'s table is there; down to 20 cells no line is longer than the width."""
    rows = [(*ROW, DECISIONS, PROVIDER), (*ROW, "rate: send", "")]
    lines = layout_table(COLUMNS, rows, width)
    text = squeezed(lines)
    for word in f"{' '.join(COLUMNS)} {DECISIONS} {PROVIDER}".split():
        assert word in text, word
    if width is not None and width >= 20:
        assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("width", [60, 80])
def test_a_table_that_does_not_fit_becomes_records(width: int) -> None:
    """One field a line, a blank line between records, no line for a field without a value."""
    lines = layout_table(COLUMNS, [(*ROW, DECISIONS, PROVIDER), (*ROW, "rate: send", "")], width)
    first, second = "\n".join(lines).split("\n\n")
    assert [line.split("  ")[0] for line in second.splitlines()] == [*COLUMNS[:-1]]
    assert first.splitlines()[0] == "when (UTC)  2026-03-02 08:00:00"
    assert "provider    2026-03-02 08:00:01 bounced: 550 5.1.1" in first


def test_prose_is_folded_before_records_are_used() -> None:
    """Short columns stay whole; the long one is folded at blanks."""
    lines = layout_table(("id", "added", "reason"), [("my-own-job-id", ROW[0], "a reason of several words")], 52)
    assert lines == [
        "id             added                reason",
        "my-own-job-id  2026-03-02 08:00:00  a reason of",
        "                                    several words",
    ]


def test_wide_characters_count_as_two_cells() -> None:
    """The next column starts at the same cell in every row."""
    rows = [("日本語", "x"), ("한글", "x"), ("e\u0301a", "x"), ("👨\u200d👩\u200d👧", "x"), ("❤️", "x"), ("abc", "x")]
    _, *lines = layout_table(("name", "column"), rows, None)
    assert {cell_len(line[: line.rindex("x")]) for line in lines} == {8}


@given(TEXTS, st.integers(2, 40))
@example("\u200d\u200d000", 2)
def test_fold_keeps_every_character(text: str, width: int) -> None:
    """Only blanks at the folds disappear; a line is longer only if one character is."""
    lines = fold(text, width)
    assert squeezed(lines) == squeezed([text])
    assert all(cell_len(line) <= width for line in lines)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4), st.integers(30, 120))
def test_table_keeps_every_character(rows: list[tuple[str, str, str]], width: int) -> None:
    """As records or as columns, with any text in any cell."""
    lines = layout_table(("a", "b", "c"), rows, width)
    assert max(map(cell_len, lines), default=0) <= width
    output = sorted("".join(lines))
    for row in rows:
        for char in "".join(row).replace(" ", ""):
            assert char in output


def test_fields_on_a_tiny_terminal_are_below_their_names() -> None:
    """Beside a long name there is no space."""
    assert layout_fields([("requests per second", "the provider has reported no limit")], 22) == [
        "requests per second",
        "  the provider has",
        "  reported no limit",
    ]


def test_table_without_rows_shows_its_columns() -> None:
    assert layout_table(("id", "reason"), [], 60) == ["id  reason"]
    assert layout_table(("a" * 30, "b" * 30), [], 20) == []

"""Cleaning and cutting of text: only what harms is removed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.text import (
    GRAPHEME_CLUSTER,
    HARMFUL,
    LINE_BREAK_RUN,
    SURROGATE,
    cut,
    header_line,
    is_harmless_header,
    is_harmless_line,
    one_line,
    several_lines,
    storable,
)

KEPT = [
    "👩‍👩‍👧‍👦 ❤️",
    "\U0001fae9",  # Unicode 16
    "\U0001fac8",  # Unicode 17, newer than the tables of this interpreter
    "\U0001faff",  # reserved for an emoji of a later version
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # the flag of Scotland: tags
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a zero-width non-joiner
    "\u0646\u200c\u0647",
    "\u0915\u094d\u200d\u0937",  # Hindi, with a zero-width joiner
    "a\u200eb\u200fc",  # direction marks, which affect no other text
    "co\u00adoperate",
    "\ufeffx",
    "a\u2060b",
    "\ue000",  # private use: fonts of companies
    "1\u202f000\u00a0€",
    "\u0378",  # not assigned
]


@pytest.mark.parametrize("text", KEPT)
def test_text_stays_as_it_is(text: str) -> None:
    """Letters, emoji, flags, joiners and spaces of any script and version are kept."""
    assert one_line(text) == several_lines(text) == cut(text, 100) == storable(text, 100) == text
    assert is_harmless_line(text)


@pytest.mark.parametrize(
    ("text", "line", "lines"),
    [
        ("a\r\nb\u2028c\x85d\te\0\x1b\u202ef", "a b c d ef", "a\nb\nc\nd\tef"),
        ("a\x0bb\x0cc", "a b c", "a\nb\nc"),
        ("a\x1cb\x1dc\x1ed\x1fe", "a b c d e", "a\nb\nc\nde"),
        ("a\x08b\x7fc\x9fd", "abcd", "abcd"),
        ("\u2066a\u2069 \u202bb\u202c", "a b", "a b"),
        ("cut \ud83d", "cut \ufffd", "cut \ufffd"),
        ("\ude42\ud83d", "\ufffd\ufffd", "\ufffd\ufffd"),
        ("\0", "", ""),
    ],
)
def test_harmful_characters_are_removed(text: str, line: str, lines: str) -> None:
    """Line breaks of every sort become spaces or newlines; other controls and direction overrides vanish."""
    assert one_line(text) == line
    assert several_lines(text) == lines
    assert not is_harmless_line(text)


@given(st.text(st.characters()))
def test_cleaned_text_is_harmless(text: str) -> None:
    """Any text becomes one that can be encoded, in one line or in lines; cleaning it again changes nothing."""
    line, lines = one_line(text), several_lines(text)
    assert is_harmless_line(line)
    assert line.splitlines() in ([], [line])
    assert lines.splitlines() == (lines.split("\n") if lines else [])
    (line + lines + storable(text, 1_000)).encode()
    assert (one_line(line), several_lines(lines)) == (line, lines)


@given(st.characters())
def test_every_other_character_is_kept(char: str) -> None:
    """A character that is neither a control, a line break, an override nor half a pair is never removed."""
    if not (HARMFUL.search(char) or LINE_BREAK_RUN.search(char) or SURROGATE.search(char)):
        assert one_line(f"x{char}x") == several_lines(f"x{char}x") == f"x{char}x"


@given(st.text(st.sampled_from("ab \u0301\u200d\ufe0f👩👧🏽🇫🇷\u0915\u094d"), max_size=60), st.integers(1, 40))
def test_cut_ends_at_a_cluster(text: str, max_length: int) -> None:
    """The text is cut where the whole text has a boundary between two clusters, and as late as possible."""
    shown = cut(text, max_length)
    assert text.startswith(shown)
    assert len(shown) <= max_length
    ends = [cluster.end() for cluster in GRAPHEME_CLUSTER.finditer(text) if cluster.end() <= max_length]
    assert len(shown) == (ends[-1] if ends else min(len(text), max_length))


def test_cut_when_one_cluster_is_longer_than_the_limit() -> None:
    """A letter with hundreds of accents is cut, because the limit holds for every text."""
    assert cut("e" + "\u0301" * 500, 10) == "e" + "\u0301" * 9
    assert cut("Hi e" + "\u0301" * 500, 10) == "Hi "


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Due: \u2068\u0645\u06cc\u2069 soon", "Due: \u2068\u0645\u06cc\u2069 soon"),
        ("a \u2068b\r\nBcc: c\u2069\u202e d\0 ", "a \u2068b Bcc: c\u2069 d"),
        ("\u2066a\u2067b\u2069", "ab\u2069"),
        ("\u2068\ud83d\u2069", "\u2068\ufffd\u2069"),
        ("", ""),
    ],
)
def test_header_keeps_what_isolates_a_name(text: str, line: str) -> None:
    """Subjects contain isolates that we put around names; everything else that does harm is removed."""
    assert header_line(text) == line
    assert is_harmless_header(line)
    assert is_harmless_header(text) == (header_line(text) == text)

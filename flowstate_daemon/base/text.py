"""Cleaning and cutting of text that people typed. Pure.

Only characters that do harm are removed. A list of those that are allowed, such as `str.isprintable`, would also remove
emoji that are newer than the interpreter's tables, flags, and the joiners of Persian, Kurdish and Indian scripts.
"""

from __future__ import annotations

import re

import regex

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Where `str.splitlines` sees a new line, and the separators of ASCII, which programs write where a line ends.
LINE_BREAK_RUN = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]+")
LINE_BREAK = re.compile("\r\n?|[\n\v\f\x1c-\x1e\x85\u2028\u2029]")
# C0 and C1 controls, and the direction overrides and isolates, which would reorder the text around a field.
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SURROGATE = re.compile("[\ud800-\udfff]")
DIRT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # all of them, for one quick check
# What isolates a name of the other direction; emails put these around it themselves.
ISOLATES = re.compile("[\u2068\u2069]")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
GRAPHEME_CLUSTER = regex.compile(r"\X")


def one_line(text: str) -> str:
    """The text in one line without harmful characters."""
    if is_harmless_line(text):
        return text.strip()
    return _clean_line(text).strip()


def several_lines(text: str) -> str:
    """The text without harmful characters, its lines separated by a bare newline."""
    if is_harmless_line(text):
        return text.strip()
    return replace_surrogates(HARMFUL.sub("", LINE_BREAK.sub("\n", text))).strip()


def is_harmless_line(text: str) -> bool:
    """Whether the text is one line without harmful characters."""
    return (text.isascii() and text.isprintable()) or not DIRT.search(text)


def header_line(text: str) -> str:
    """Like `one_line`, for the text of a header field that we have made: what isolates a name stays."""
    if is_harmless_header(text):
        return text.strip()
    parts = ISOLATES.split(text)
    marks = [*ISOLATES.findall(text), ""]
    return "".join(_clean_line(part) + mark for part, mark in zip(parts, marks, strict=True)).strip()


def is_harmless_header(text: str) -> bool:
    """Whether the text is one line without harmful characters, except what isolates a name."""
    return is_harmless_line(text) or is_harmless_line(ISOLATES.sub("", text))


def _clean_line(text: str) -> str:
    return replace_surrogates(HARMFUL.sub("", LINE_BREAK_RUN.sub(" ", text)))


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no encoding of Unicode has."""
    return SURROGATE.sub(REPLACEMENT, text)


def storable(text: str, max_length: int) -> str:
    """Text that Postgres can store: no NUL, no half surrogate pair, at most `max_length` characters."""
    return UNSTORABLE.sub(REPLACEMENT, text[:max_length])


def cut(text: str, max_length: int) -> str:
    """The start of the text, at most `max_length` characters, without cutting what people see as one character."""
    if len(text) <= max_length:
        return text
    # A cluster never continues over a space, so that the search can begin at the last one.
    end = max(text.rfind(" ", 0, max_length), 0)
    for cluster in GRAPHEME_CLUSTER.finditer(text, end):
        if cluster.end() > max_length:
            break
        end = cluster.end()
    return text[: end or max_length]  # one cluster may be longer than the limit: letters with hundreds of accents

"""Filters for text in templates: truncate, split, isolate. Pure.

Mail clients cut emails at about 100 kB and hide the rest, so every text and every list is limited here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from markupsafe import Markup, escape

from flowstate_daemon.base.text import cut
from flowstate_daemon.mail.field_types import TITLE_PLACEHOLDER

MAX_TITLE_LENGTH = 150  # characters of a title or a name
MAX_PROSE_LENGTH = 1_500
MAX_LIST_ROWS = 50  # rows
MAX_LIST_BYTES = 50_000  # bytes of HTML
ROW_OVERHEAD_BYTES = 700  # of the markup around one row
MAX_ESCAPE_BYTES = 5  # bytes, for a quotation mark or an ampersand
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"
# Hebrew, Arabic and other scripts that are written from right to left.
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]")


class Row(Protocol):
    """One task of a list."""

    @property
    def title(self) -> str | None: ...

    @property
    def url(self) -> str | None: ...


def truncate(text: str, max_length: int = MAX_TITLE_LENGTH) -> str:
    """At most `max_length` characters, cut between words if a word ends near there."""
    if len(text) <= max_length:
        return text
    head = cut(text, max_length - 1)
    words, blank, rest = head.rpartition(" ")
    if blank and len(rest) <= max_length // 4:
        head = words
    return head.rstrip() + "…"


def isolate(text: str) -> str:
    """Text that cannot change the direction of the line around it; characters of its own only where it could."""
    if text.isascii() or not RIGHT_TO_LEFT.search(text):
        return text
    return f"{FIRST_STRONG_ISOLATE}{text}{POP_ISOLATE}"


def close_isolates(text: str) -> str:
    """Text whose end, with the end of an isolated part, was cut off."""
    if text.isascii():
        return text
    return text + POP_ISOLATE * (text.count(FIRST_STRONG_ISOLATE) - text.count(POP_ISOLATE))


class UserText:
    """The filters for text that people typed: truncated, isolated, and with words for a missing title."""

    def __init__(self, untitled: str) -> None:
        self._untitled = untitled

    def plain_text(self, text: str, max_length: int = MAX_TITLE_LENGTH) -> str:
        """For an element of HTML of its own."""
        return self._untitled if text == TITLE_PLACEHOLDER else truncate(text, max_length)

    def in_text(self, text: str, max_length: int = MAX_TITLE_LENGTH) -> str:
        """For subjects and text parts."""
        return isolate(self._untitled if text == TITLE_PLACEHOLDER else truncate(text, max_length))

    def in_html(self, text: str, max_length: int = MAX_TITLE_LENGTH) -> Markup:
        """For a line of HTML; the characters are for mail programs that do not know `bdi`."""
        text = self._untitled if text == TITLE_PLACEHOLDER else truncate(text, max_length)
        if not text.isascii():
            text = isolate(text)
        return Markup(f"<bdi>{escape(text)}</bdi>")  # noqa: S704 - escaped just there


def split_lines(text: str) -> list[str]:
    """The lines of a text, truncated to MAX_PROSE_LENGTH characters."""
    return truncate(text, MAX_PROSE_LENGTH).split("\n") if text else []


def fit_list(tasks: Sequence[Row]) -> Sequence[Row]:
    """The first tasks, as many as fit into an email: all of them, unless their links are very long."""
    texts = sum(MAX_TITLE_LENGTH + len(task.url or "") for task in tasks)
    if ROW_OVERHEAD_BYTES * len(tasks) + MAX_ESCAPE_BYTES * texts <= MAX_LIST_BYTES:
        return tasks  # fast path: they fit even if every character needs escaping
    free_bytes = MAX_LIST_BYTES
    for number, task in enumerate(tasks):
        free_bytes -= ROW_OVERHEAD_BYTES + sum(
            len(escape(text).encode()) for text in (truncate(task.title or ""), task.url or "")
        )
        if free_bytes < 0:
            return tasks[:number]
    return tasks

"""Filters for text in templates: truncate, split, isolate. Pure.

Mail clients cut emails at about 100 kB and hide the rest, so every text and every list is limited here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from markupsafe import Markup, escape

from flowstate_daemon.base.text import cut

MAX_TITLE_LENGTH = 150  # characters of a title or a name
MAX_PROSE_LENGTH = 1_500
MAX_LIST_ROWS = 50  # rows
MAX_LIST_BYTES = 50_000  # bytes of HTML
ROW_OVERHEAD_BYTES = 700  # of the markup around one row
MAX_ESCAPE_BYTES = 5  # bytes, for a quotation mark or an ampersand
BULLET = re.compile(r"^[-*•]\s+")


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


def bidi_isolate(text: str, max_length: int = MAX_TITLE_LENGTH) -> Markup:
    """User text for HTML: truncated, escaped, and isolated so that it cannot change the direction of the line."""
    return Markup(f"<bdi>{escape(truncate(text, max_length))}</bdi>")  # noqa: S704 - escaped just there


def split_lines(text: str) -> list[str]:
    """The lines of a text, truncated to MAX_PROSE_LENGTH characters."""
    return truncate(text, MAX_PROSE_LENGTH).split("\n") if text else []


def bullet_items(text: str) -> list[str]:
    """The lines of a list without the blank ones, and without the bullets of the producer."""
    found = (BULLET.sub("", row.strip()) for row in text.split("\n"))
    return [point for point in found if point]


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

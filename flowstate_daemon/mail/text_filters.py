"""What becomes of text on its way into a mail: cut, split, kept in its line. Pure; templates use it as filters.

Mailboxes cut mails at about 100 kB, and hide what stands behind: every text and every list has its limit here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from markupsafe import Markup, escape

MAX_TITLE_LENGTH = 150  # characters of a title or a name within a mail
MAX_PROSE_LENGTH = 1_500
MAX_LIST_ROWS = 50  # rows
MAX_LIST_BYTES = 50_000  # bytes of HTML
ROW_OVERHEAD_BYTES = 700  # of the markup around one row
MAX_ESCAPE_BYTES = 5  # bytes, for a quotation mark or an ampersand
BULLET = re.compile(r"^[-*•]\s+")
ZERO_WIDTH_JOINERS = "\u200d\ufe0f"  # what an emoji that was cut in the middle would end with


class Row(Protocol):
    """One task of a list."""

    @property
    def title(self) -> str | None: ...

    @property
    def url(self) -> str | None: ...


def one_line(text: str) -> str:
    """Text that fits a header field: printable, without line breaks or runs of blanks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in " ".join(text.split()) if char.isprintable() or char in ZERO_WIDTH_JOINERS)


def truncate(text: str, longest: int = MAX_TITLE_LENGTH) -> str:
    """At most `longest` characters, cut between words if a word ends near there."""
    if len(text) <= longest:
        return text
    head = text[: longest - 1]
    words, blank, rest = head.rpartition(" ")
    if blank and len(rest) <= longest // 4:
        head = words
    return head.rstrip(ZERO_WIDTH_JOINERS + " ") + "…"


def bidi_isolate(text: str, longest: int = MAX_TITLE_LENGTH) -> Markup:
    """Text that a person typed, for HTML: cut, escaped, and unable to turn the line around it from right to left."""
    return Markup(f"<bdi>{escape(truncate(text, longest))}</bdi>")  # noqa: S704 - escaped just there


def split_lines(text: str) -> list[str]:
    """The lines of a text, which is cut where nobody reads on."""
    return truncate(text, MAX_PROSE_LENGTH).split("\n") if text else []


def bullet_items(text: str) -> list[str]:
    """The lines of a list without the blank ones, and without the bullets that a producer may have put there."""
    found = (BULLET.sub("", row.strip()) for row in text.split("\n"))
    return [point for point in found if point]


def fit_list(tasks: Sequence[Row]) -> Sequence[Row]:
    """As many tasks from the first as there is room for in one mail: all of them, unless their links are absurd."""
    texts = sum(MAX_TITLE_LENGTH + len(task.url or "") for task in tasks)
    if ROW_OVERHEAD_BYTES * len(tasks) + MAX_ESCAPE_BYTES * texts <= MAX_LIST_BYTES:
        return tasks  # whatever they are made of
    room = MAX_LIST_BYTES
    for number, task in enumerate(tasks):
        room -= ROW_OVERHEAD_BYTES + sum(
            len(escape(text).encode()) for text in (truncate(task.title or ""), task.url or "")
        )
        if room < 0:
            return tasks[:number]
    return tasks

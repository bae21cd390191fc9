"""What the application stores, in the words and bounds that a mail takes: whatever stands there, no mail fails on it.

The three builders use it. Pure.
"""

from __future__ import annotations

import re

from flowstate_daemon.database.app_data import User
from flowstate_daemon.mail.contexts import UNKNOWN_NAME
from flowstate_daemon.mail.field_types import MAX_NUMBER, TITLE_PLACEHOLDER
from flowstate_daemon.mail.text_filters import one_line, truncate

MAX_TITLE_LENGTH = 200
MAX_NAME_LENGTH = 100
PRIORITIES = range(1, 6)
# Half of a surrogate pair cannot be written as UTF-8, nor stored; a fact from anywhere else might still hold one.
SURROGATES = re.compile("[\ud800-\udfff]")


def format_title(title: str | None) -> str:
    """A title as one short printable line; without one, the sign that the mails use for that."""
    return _line(title, MAX_TITLE_LENGTH) or TITLE_PLACEHOLDER


def format_name(name: str | None) -> str | None:
    """A project's or somebody's name as one short line, or None for nothing."""
    return _line(name, MAX_NAME_LENGTH) or None


def display_name(recipient: User) -> str:
    """How a mail speaks to somebody."""
    return format_name(recipient.full_name) or UNKNOWN_NAME


def priority(number: int | None) -> int | None:
    return number if number in PRIORITIES else None


def positive_or_none(number: int | None) -> int | None:
    """A number of minutes or things that a mail may show, or None for one that says nothing."""
    return None if number is None or number <= 0 else min(number, MAX_NUMBER)


def pluralise(number: int, thing: str) -> str:
    """`1 day`, `2 days`: in the English of producers' lines, which our own templates do not show."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _line(text: str | None, longest: int) -> str:
    if not text:
        return ""
    return truncate(one_line(text if text.isascii() else SURROGATES.sub("", text)).strip(), longest)

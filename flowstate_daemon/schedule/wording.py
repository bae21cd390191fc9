"""What the application stores, in the words and bounds that a mail takes: whatever stands there, no mail fails on it.

The three builders use it. Pure.
"""

from __future__ import annotations

import re

from flowstate_daemon.database.facts import Person
from flowstate_daemon.mail.contexts import NOBODY
from flowstate_daemon.mail.fields import LARGEST_NUMBER, NO_TITLE
from flowstate_daemon.mail.shaping import cut, one_line

LONGEST_TITLE = 200
LONGEST_NAME = 100
PRIORITIES = range(1, 6)
# Half of a surrogate pair cannot be written as UTF-8, nor stored; a fact from anywhere else might still hold one.
HALVES = re.compile("[\ud800-\udfff]")


def titled(title: str | None) -> str:
    """A title as one short printable line; without one, the sign that the mails use for that."""
    return _line(title, LONGEST_TITLE) or NO_TITLE


def named(name: str | None) -> str | None:
    """A project's or somebody's name as one short line, or None for nothing."""
    return _line(name, LONGEST_NAME) or None


def called(person: Person) -> str:
    """How a mail speaks to somebody."""
    return named(person.full_name) or NOBODY


def priority(number: int | None) -> int | None:
    return number if number in PRIORITIES else None


def counted(number: int | None) -> int | None:
    """A number of minutes or things that a mail may show, or None for one that says nothing."""
    return None if number is None or number <= 0 else min(number, LARGEST_NUMBER)


def times(number: int, thing: str) -> str:
    """`1 day`, `2 days`: in the English of producers' lines, which our own templates do not show."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _line(text: str | None, longest: int) -> str:
    if not text:
        return ""
    return cut(one_line(text if text.isascii() else HALVES.sub("", text)).strip(), longest)

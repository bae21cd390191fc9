"""Brings stored titles, names and numbers into the form that an email accepts, so that no email fails on them. Pure."""

from __future__ import annotations

from flowstate_daemon.base.text import one_line
from flowstate_daemon.database.app_data import User
from flowstate_daemon.mail.contexts import UNKNOWN_NAME
from flowstate_daemon.mail.field_types import MAX_NUMBER, TITLE_PLACEHOLDER
from flowstate_daemon.mail.text_filters import truncate

MAX_TITLE_LENGTH = 200
MAX_NAME_LENGTH = 100
PRIORITIES = range(1, 6)


def format_title(title: str | None) -> str:
    """A title as one short printable line; TITLE_PLACEHOLDER when there is none."""
    return _line(title, MAX_TITLE_LENGTH) or TITLE_PLACEHOLDER


def format_name(name: str | None) -> str | None:
    """The name of a project or user as one short line, or None when empty."""
    return _line(name, MAX_NAME_LENGTH) or None


def display_name(user: User) -> str:
    """The name by which an email addresses a user."""
    return format_name(user.full_name) or UNKNOWN_NAME


def priority(number: int | None) -> int | None:
    return number if number in PRIORITIES else None


def positive_or_none(number: int | None) -> int | None:
    """A count limited to MAX_NUMBER, or None when it is missing or not positive."""
    return None if number is None or number <= 0 else min(number, MAX_NUMBER)


def pluralise(number: int, thing: str) -> str:
    """`1 day`, `2 days`: English, for the plain-text fields of legacy producers, which our templates do not show."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _line(text: str | None, max_length: int) -> str:
    if not text:
        return ""
    return truncate(one_line(text), max_length)

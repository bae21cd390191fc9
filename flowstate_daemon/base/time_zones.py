"""Time zones by their name, and the instants that people write with one or without. Pure.

Names that people choose are checked when they are written, but another machine may know more zones than this one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


@cache
def get_zone(name: str) -> ZoneInfo:
    """A time zone by its name. Raises ZoneInfoNotFoundError, ValueError or OSError."""
    return ZoneInfo(name)


def find_zone(name: str | None) -> ZoneInfo | None:
    """A time zone by its name; None without a name, and if this machine knows none of that name."""
    try:
        return get_zone(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def parse_instant(text: str) -> datetime:
    """An instant in ISO 8601, in UTC; without an offset it is UTC. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is beyond the first or the last year") from error

"""Time zones by their name. Pure.

Names that people choose are checked when they are written, but another machine may know more zones than this one.
"""

from __future__ import annotations

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

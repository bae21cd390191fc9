"""Time zones and instants as people write them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from flowstate_daemon.base.time_zones import find_zone, parse_instant


@pytest.mark.parametrize("name", [None, "", "Mars/Olympus", "../etc/passwd", "x" * 300, "Europe"])
def test_unknown_zone_is_not_found(name: str | None) -> None:
    """A name that is too long, or that of a folder, is no failure either."""
    assert find_zone(name) is None


def test_known_zone_is_found() -> None:
    """The zone itself, which knows its summer time."""
    assert find_zone("Europe/Paris") == ZoneInfo("Europe/Paris")


@pytest.mark.parametrize("text", ["2026-03-02T08:00:00+01:00", "2026-03-02T07:00Z", "2026-03-02T07:00"])
def test_instant_is_in_utc(text: str) -> None:
    """With an offset, and without."""
    assert parse_instant(text) == datetime(2026, 3, 2, 7, tzinfo=UTC)
    assert parse_instant(text).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "soon", "2026-02-30", "0001-01-01T00:00+05:00", "9999-12-31T23:59-05:00"])
def test_no_instant(text: str) -> None:
    """Also one that is beyond the years of Python in UTC."""
    with pytest.raises(ValueError, match=r"Invalid isoformat|out of range|must be in range|beyond"):
        parse_instant(text)

"""What the repeat options of a job say: cron, zones and dates as npm bull's cron-parser reads them. Pure.

The arithmetic stands in `base/cron.py`; here a stranger's values are read, and what is wrong with them gets a name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from typing import Any, TypeGuard

from flowstate_daemon.base import cron as wall
from flowstate_daemon.base.cron import LATEST_MS
from flowstate_daemon.base.errors import Malformed


@contextmanager
def _option(name: str) -> Iterator[None]:
    """Say of which repeat option something is wrong."""
    try:
        yield
    except ValueError as error:
        raise Malformed(f"the repeat option {name} {error}") from error


def read_cron(text: Any) -> str:
    """A cron expression in croniter's words, always six fields with the seconds first. Raises Malformed."""
    if not isinstance(text, str):
        raise Malformed("the repeat option cron is not a text")
    with _option("cron"):
        return wall.read_cron(text)


def read_zone(name: Any, local: tzinfo) -> tzinfo:
    """An IANA zone, `local` where none is named. Raises Malformed."""
    if name in (None, ""):
        return local
    with _option("tz"):
        return wall.read_zone(str(name))


def cron_after(cron: str, zone: tzinfo, after_ms: int) -> int:
    """The first instant after `after_ms` when a clock in `zone` shows what `cron` says. Raises Malformed."""
    with _option("cron"):
        return wall.cron_after(cron, zone, after_ms)


def read_instant(value: Any, option: str, local: tzinfo) -> int:
    """A date as JSON carries it, in Unix ms: a number or ISO text; a mere day is UTC's. Raises Malformed."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            if found.tzinfo is None:
                found = found.replace(tzinfo=local if len(value) > len("2026-01-01") else UTC)
            return round(found.timestamp() * 1000)
        if usable(value):
            return math.floor(value)
    except (ValueError, OverflowError) as error:
        raise Malformed(f"the repeat option {option} is not a date") from error
    raise Malformed(f"the repeat option {option} is not a date")


def usable(at_ms: Any) -> TypeGuard[float]:
    """Whether this is a number that can be an instant in Unix ms."""
    return isinstance(at_ms, int | float) and not isinstance(at_ms, bool) and abs(at_ms) <= LATEST_MS

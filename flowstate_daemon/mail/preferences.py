"""What recipients choose for themselves: language, time zone, hour, how often, a pause. Pure.

`database/preferences.py` stores it; the policy, the planner, the pages and the API use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

Cadence: TypeAlias = Literal["daily", "weekly"]

MORNING_HOURS = range(5, 12)  # later than this is no morning, and a reminder needs time before the day ends
PAUSE_WEEKS = (1, 2, 4)
# Zones that people recognise. The others (Etc/GMT+5, US/Pacific, EST5EDT, …) are accepted and not suggested.
REGIONS = ("Africa/", "America/", "Antarctica/", "Asia/", "Atlantic/", "Australia/", "Europe/", "Indian/", "Pacific/")
# In the list of zone names, but not the time zone of a person: `localtime` is that of this machine.
NON_ZONES = frozenset({"localtime", "Factory"})
MAX_ZONE_LENGTH = 64
CHOICES = ("language", "time_zone", "morning_hour", "overdue_summary", "paused_until")


@dataclass(frozen=True, slots=True)
class Preferences:
    """The choices of one recipient; None means no choice.

    `enabled_kinds` are kinds that the recipient has switched on here, whatever the application's preferences say.
    """

    language: str | None = None
    time_zone: str | None = None
    morning_hour: int | None = None
    overdue_summary: Cadence | None = None
    paused_until: datetime | None = None
    enabled_kinds: frozenset[str] = frozenset()

    def paused(self, now: datetime) -> bool:
        return self.paused_until is not None and now < self.paused_until


NO_PREFERENCES = Preferences()


def describe_preferences(preferences: Preferences) -> dict[str, object]:
    """What was chosen, for people and programs that look; without what was not."""
    kinds = sorted(preferences.enabled_kinds) or None
    chosen = {name: getattr(preferences, name) for name in CHOICES} | {"enabled_kinds": kinds}
    return {name: value for name, value in chosen.items() if value is not None}


def find_time_zone(text: str) -> str | None:
    """The IANA zone that somebody means: any case, spaces for underscores, or a city alone. None if there is none."""
    wanted = "_".join(text[: MAX_ZONE_LENGTH + 1].replace("_", " ").split()).lower()
    if not wanted or len(wanted) > MAX_ZONE_LENGTH:
        return None
    zones = available_timezones() - NON_ZONES
    by_name = {zone.lower(): zone for zone in zones}
    if wanted in by_name:
        return by_name[wanted]
    cities = {zone for zone in suggested_time_zones() if zone.rpartition("/")[2].lower() == wanted}
    return cities.pop() if len(cities) == 1 else None


def suggested_time_zones() -> list[str]:
    """The zones that a page offers, in alphabetical order."""
    return sorted(zone for zone in available_timezones() if zone == "UTC" or zone.startswith(REGIONS))


def end_of_pause(now: datetime, weeks: int, zone: ZoneInfo) -> datetime:
    """When a pause that begins now ends: the beginning of the same weekday, so that its morning emails come again."""
    day = now.astimezone(zone).date() + timedelta(weeks=weeks)
    return datetime.combine(day, time.min, zone).astimezone(UTC)

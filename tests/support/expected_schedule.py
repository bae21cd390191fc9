"""A year of users in many time zones, and the scheduled emails expected for them. Pure.

The due times are computed without cron and without the daemon's code: date by date, from the rules of the time zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
NOON = time(12)
SUNDAY = 7
# A year of many changes: Jordan and Syria stay on summer time, Iran and Mexico give it up, Chile moves its date,
# Palestine and Fiji decide late, Morocco turns its clocks for Ramadan.
YEAR = 2022
ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Adak",
    "America/Anchorage",
    "America/Asuncion",
    "America/Chihuahua",
    "America/Havana",
    "America/Los_Angeles",
    "America/Mexico_City",
    "America/New_York",
    "America/Nuuk",
    "America/Ojinaga",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Damascus",
    "Asia/Gaza",
    "Asia/Kabul",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Asia/Yangon",
    "Atlantic/Azores",
    "Australia/Adelaide",
    "Australia/Eucla",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Dublin",
    "Europe/London",
    "Europe/Moscow",
    "Europe/Paris",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Easter",
    "Pacific/Fiji",
    "Pacific/Honolulu",
    "Pacific/Kiritimati",
    "Pacific/Marquesas",
    "Pacific/Norfolk",
    "UTC",
)


@dataclass(frozen=True, slots=True)
class LocalTimes:
    """Due time and deadline of a kind in local time; `weekly` means on Sundays."""

    due: time
    until: time
    weekly: bool = False


# 02:30 and, on Sundays, 00:30 are hours that exist twice or not at all when clocks are turned. The ends are late, so
# that daemons may look up a few times a day only.
HOURS = {
    "task-reminder": LocalTimes(time(9), time(21)),
    "overdue-summary": LocalTimes(time(2, 30), time(15)),
    "focus-report": LocalTimes(time(0, 30), time(12), weekly=True),
}
SETTINGS = {
    "task_reminder_deadline": "21:00",
    "overdue_summary_cron": "30 2 * * *",
    "overdue_summary_deadline": "15:00",
    "focus_report_cron": "30 0 * * 0",
}


@dataclass(frozen=True, slots=True)
class ZoneCase:
    """The key of one scheduled email."""

    kind: str
    user_id: str
    local_date: date


@dataclass(frozen=True, slots=True)
class ExpectedMail:
    """When an email is due, and from when on it is too late."""

    at: datetime
    until: datetime


def recipient_in(zone: str) -> str:
    return f"p-{zone.replace('/', '-').lower()}"


def instant(day: date, hour: time, zone: str) -> datetime:
    """The first instant of a local time; a skipped local time moves by the length of the gap."""
    return datetime.combine(day, hour, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def dues(zones: Iterable[str], starts_at: datetime, ends_at: datetime) -> dict[ZoneCase, ExpectedMail]:
    """All emails expected of a daemon that runs from `starts_at` to `ends_at`; open deadlines before that count."""
    owed = {}
    for zone in zones:
        for day in days(starts_at.date() - 2 * DAY, ends_at.date() + 2 * DAY):
            for kind, hours in HOURS.items():
                if hours.weekly and day.isoweekday() != SUNDAY:
                    continue
                last = day + DAY if hours.weekly else day
                due = ExpectedMail(instant(day, hours.due, zone), instant(last, hours.until, zone))
                if due.at <= ends_at and due.until > starts_at:
                    owed[ZoneCase(kind, recipient_in(zone), day)] = due
    return owed


def days(first: date, end: date) -> Iterator[date]:
    while first < end:
        yield first
        first += DAY


def clock_changes(zones: Iterable[str], starts_at: datetime, ends_at: datetime) -> set[tuple[str, date]]:
    """Local dates with a clock change, each with the day after, by user."""
    found = set()
    for zone in zones:
        for day in days(starts_at.date(), ends_at.date()):
            if instant(day + DAY, time(0), zone) - instant(day, time(0), zone) != DAY:
                found |= {(recipient_in(zone), day + number * DAY) for number in (0, 1)}
    return found

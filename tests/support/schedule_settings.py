"""Settings of schedules for tests that count scheduled emails at any time of the day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

KINDS = ("TASK_REMINDER", "OVERDUE_SUMMARY", "FOCUS_REPORT")


def nothing_comes_due() -> dict[str, str]:
    """Environment variables that set every schedule to a day half a year away: only manual runs send emails."""
    day = datetime.now(UTC).date() + timedelta(days=180)
    return {f"FLOWSTATE_SCHEDULE_{kind}_CRON": f"0 9 {day.day} {day.month} *" for kind in KINDS}

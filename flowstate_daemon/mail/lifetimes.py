"""How long an email of a scheduled kind may be sent after its job was created. Pure.

A job of another producer has no deadline: without a lifetime, a reminder that waited in `failed` for a week would be
sent when an operator retries it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from flowstate_daemon.base.time_zones import find_zone
from flowstate_daemon.mail.kinds import MailRequest

HOUR_MS = 3_600_000
FIRST_MS = -62_135_596_800_000  # 0001-01-01 in UTC, before which Python knows no time; "no date" of some producers
TASK_REMINDER, OVERDUE_SUMMARY, FOCUS_REPORT = "task-reminder", "overdue-summary", "focus-report"
SCHEDULED_KINDS = (TASK_REMINDER, OVERDUE_SUMMARY, FOCUS_REPORT)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Lifetimes in hours. A reminder without one is valid until the end of the local day before the due date."""

    default_zone: str
    task_reminder_h: float | None
    overdue_summary_h: float
    focus_report_h: float

    def end_ms(self, request: MailRequest, created_ms: int, zone: str | None) -> int | None:
        """From when on the email is not sent any more, Unix ms; None if its kind has no lifetime.

        None also if that depends on the job's age and `created_ms` is 0: then it is unknown.
        """
        hours = self._hours(request.kind)
        if hours is not None:
            return created_ms + round(hours * HOUR_MS) if created_ms else None
        if request.kind != TASK_REMINDER:
            return None
        time_zone = find_zone(zone) or find_zone(self.default_zone) or UTC
        due: object = getattr(request.context, "due_date", None)  # mail.kinds_dir may have changed the fields
        if isinstance(due, date):
            return _start_of_day_ms(due, time_zone)
        if not created_ms:
            return None
        # Without a date, "tomorrow" is the day after the one on which the producer wrote it.
        created = datetime.fromtimestamp(created_ms / 1000, time_zone)
        return _start_of_day_ms(created.date() + timedelta(days=1), time_zone)

    def _hours(self, kind: str) -> float | None:
        """The lifetime in hours of the kinds that have such a one."""
        if kind == OVERDUE_SUMMARY:
            return self.overdue_summary_h
        if kind == FOCUS_REPORT:
            return self.focus_report_h
        return self.task_reminder_h if kind == TASK_REMINDER else None


@lru_cache(maxsize=1024)
def _start_of_day_ms(day: date, time_zone: tzinfo) -> int:
    return max(round(datetime.combine(day, time.min, time_zone).timestamp() * 1000), FIRST_MS)

"""The settings of the calendar: what is refused, all of it at once, and what the short forms mean."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.config.loader import load
from flowstate_daemon.config.validators import deadline_to_cron


def test_all_mistakes_are_told_at_once() -> None:
    """Each wrong line of the calendar is named with what is wrong with it."""
    wrong = {
        "FLOWSTATE_SCHEDULE_DEFAULT_TIMEZONE": ("Mars/Olympus", "time zone"),
        "FLOWSTATE_SCHEDULE_TASK_REMINDER_CRON": ("every morning", "cron expression"),
        "FLOWSTATE_SCHEDULE_OVERDUE_SUMMARY_CRON": ("0 7 30 2 *", "no further occurrence"),
        "FLOWSTATE_SCHEDULE_FOCUS_REPORT_DEADLINE": ("25:00", "a time like 12:00"),
        "FLOWSTATE_SCHEDULE_MAX_QUEUED": ("0", "greater than or equal to 1"),
    }
    with pytest.raises(ConfigError) as caught:
        load({name: value for name, (value, _) in wrong.items()})
    assert len(caught.value.errors) == len(wrong)
    for name, (_, text) in wrong.items():
        assert any(error.startswith(name) and text in error for error in caught.value.errors), name


@pytest.mark.parametrize("cron", ["61 9 * * *", "0 9 * *  * * * *", "", "@reboot", "0 9 * * H", "0 25 * * *"])
def test_what_is_no_cron_line_is_refused(cron: str) -> None:
    """A cron line is read strictly when the daemon starts, not when it should fire."""
    given = {"FLOWSTATE_SCHEDULE_TASK_REMINDER_CRON": cron or "# nothing"}
    with pytest.raises(ConfigError):
        load(given)


@pytest.mark.parametrize(
    ("until", "cron"), [("12:00", "0 12 * * *"), ("Mon 9:05", "5 9 * * mon"), (" sun 23:59", "59 23 * * sun")]
)
def test_the_end_of_a_window_is_a_time(until: str, cron: str) -> None:
    """`12:00` is the next noon after the mail was due, `mon 12:00` the next Monday's."""
    assert deadline_to_cron(until) == cron


@pytest.mark.parametrize("until", ["", "noon", "24:00", "12:60", "monday 12:00", "12", "12:00:00", "1 2:00"])
def test_what_is_no_time_is_refused(until: str) -> None:
    """Anything else is refused with the two forms."""
    with pytest.raises(ValueError, match="mon 12:00"):
        deadline_to_cron(until)

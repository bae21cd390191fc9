"""The schedule settings: validation and the meaning of deadlines."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.config.loader import load
from flowstate_daemon.config.validators import deadline_to_cron


def test_schedule_settings_when_many_errors() -> None:
    """Each invalid setting is reported with its reason."""
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
def test_schedule_settings_when_cron_invalid(cron: str) -> None:
    """Cron expressions are validated when the daemon starts, not when they are due."""
    given = {"FLOWSTATE_SCHEDULE_TASK_REMINDER_CRON": cron or "# nothing"}
    with pytest.raises(ConfigError):
        load(given)


@pytest.mark.parametrize(
    ("until", "cron"), [("12:00", "0 12 * * *"), ("Mon 9:05", "5 9 * * mon"), (" sun 23:59", "59 23 * * sun")]
)
def test_deadline_to_cron_when_valid(until: str, cron: str) -> None:
    """`12:00` is the next noon after the due time, `mon 12:00` the next Monday's."""
    assert deadline_to_cron(until) == cron


@pytest.mark.parametrize("until", ["", "noon", "24:00", "12:60", "monday 12:00", "12", "12:00:00", "1 2:00"])
def test_deadline_to_cron_when_invalid(until: str) -> None:
    """Any other text is rejected with the two accepted forms."""
    with pytest.raises(ValueError, match="mon 12:00"):
        deadline_to_cron(until)

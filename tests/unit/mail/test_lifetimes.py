"""How long emails of the scheduled kinds may wait: the end of each lifetime, in the zone of the recipient."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.lifetimes import Lifetimes
from flowstate_daemon.mail.policy import RecipientStatus, decide
from flowstate_daemon.mail.preferences import Preferences
from tests.unit.mail.rendered_mails import sample

LIFETIMES = Lifetimes("Europe/Paris", None, 24.0, 72.0)
CREATED = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOUR_MS = 3_600_000


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]


CREATED_MS = ms(2026, 3, 2, 8)


@pytest.mark.parametrize(
    ("kind", "changes", "zone", "end"),
    [
        ("task-reminder", {}, None, ms(2026, 3, 2, 23)),
        ("task-reminder", {}, "America/New_York", ms(2026, 3, 3, 5)),
        ("task-reminder", {}, "Mars/Olympus", ms(2026, 3, 2, 23)),
        ("task-reminder", {"dueDate": "2026-03-05"}, None, ms(2026, 3, 4, 23)),
        ("task-reminder", {"dueDate": "2026-03-29"}, None, ms(2026, 3, 28, 23)),
        ("overdue-summary", {}, None, CREATED_MS + 24 * HOUR_MS),
        ("focus-report", {}, None, CREATED_MS + 72 * HOUR_MS),
    ],
)
def test_emails_expire_when_they_are_no_longer_true(
    kind: str, changes: dict[str, object], zone: str | None, end: int
) -> None:
    """Until that millisecond the email is sent, afterwards it is recorded as expired."""
    request = sample(kind, **changes)
    recipient = RecipientStatus(zone=zone)
    for now_ms, sends in ((end - 1, True), (end, False)):
        result = decide(request, recipient, now_ms=now_ms, created_ms=CREATED_MS, lifetimes=LIFETIMES)
        assert result.send is sends
    assert result.outcome == "expired"
    assert (result.reason or "").startswith("what the email says was true until 2026-03-")


def test_zone_chosen_here_wins() -> None:
    """The zone of the preference page counts before that of the application, also for a lookup that failed."""
    chosen = RecipientStatus(zone="Asia/Tokyo", preferences=Preferences(time_zone="America/New_York"))
    request = sample("task-reminder")
    at = ms(2026, 3, 3, 4, 59)
    assert decide(request, chosen, now_ms=at, created_ms=CREATED_MS, lifetimes=LIFETIMES).send
    assert not decide(request, None, now_ms=at, created_ms=CREATED_MS, lifetimes=LIFETIMES).send


def test_job_of_unknown_age_is_sent_unless_its_date_has_passed() -> None:
    """A producer that writes no usable timestamp loses no email; the date in a reminder counts all the same."""
    now_ms = ms(2026, 3, 4, 23)
    for kind in ("task-reminder", "overdue-summary", "focus-report"):
        assert decide(sample(kind), RecipientStatus(), now_ms=now_ms, created_ms=0, lifetimes=LIFETIMES).send
    for due, sends in (("2026-03-05", False), ("2026-03-06", True)):
        request = sample("task-reminder", dueDate=due)
        result = decide(request, RecipientStatus(), now_ms=now_ms, created_ms=0, lifetimes=LIFETIMES)
        assert result.send is sends
    hours = Lifetimes("Europe/Paris", 2.0, 24.0, 72.0)
    request = sample("task-reminder")
    assert decide(request, RecipientStatus(), now_ms=now_ms, created_ms=0, lifetimes=hours).send


def test_other_kinds_have_no_lifetime() -> None:
    """A milestone, a welcome or an invitation is sent however late; configured hours count for reminders too."""
    for kind in ("goal-milestone", "streak-milestone", "welcome", "project-invitation"):
        late = CREATED_MS + 10**10
        assert decide(sample(kind), RecipientStatus(), now_ms=late, created_ms=CREATED_MS, lifetimes=LIFETIMES).send
    short = Lifetimes("Europe/Paris", 2.0, 24.0, 72.0)
    request = sample("task-reminder")
    assert short.end_ms(request, CREATED_MS, None) == CREATED_MS + 2 * HOUR_MS


@pytest.mark.parametrize("now_ms", [CREATED_MS, CREATED_MS + 10**10])
def test_pause_ends_by_itself(now_ms: int) -> None:
    """A pause concerns the kinds that one can leave, until its end."""
    pause = datetime.fromtimestamp((CREATED_MS + 1) / 1000, UTC)
    paused = RecipientStatus(preferences=Preferences(paused_until=pause))
    for kind in ("goal-milestone", "focus-report"):
        result = decide(sample(kind), paused, now_ms=now_ms, created_ms=CREATED_MS)
        assert result.send is (now_ms > CREATED_MS)
    for kind in ("otp", "welcome", "project-invitation"):
        assert decide(sample(kind), paused, now_ms=CREATED_MS, created_ms=CREATED_MS).send


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Europe/Paris", "UTC", "America/New_York"])
def test_reminder_of_the_first_day_of_the_calendar_has_expired(zone: str) -> None:
    """Some producers write it for "no date". East of UTC it begins before the first year that Python knows."""
    request = sample("task-reminder", dueDate="0001-01-01")
    recipient = RecipientStatus(zone=zone)
    result = decide(request, recipient, now_ms=CREATED_MS, created_ms=CREATED_MS, lifetimes=LIFETIMES)
    assert result.outcome == "expired"
    assert (result.reason or "").startswith("what the email says was true until")


@given(
    st.dates(min_value=date(1, 1, 2)) | st.dates(date(2026, 3, 1), date(2026, 11, 30)),
    st.sampled_from(sorted(available_timezones())),
)
def test_reminder_ends_when_its_day_begins_in_any_zone(due: date, zone: str) -> None:
    """Also on days without midnight and days that began twice, and whatever was asked before for this day or zone."""
    request = sample("task-reminder", dueDate=due.isoformat())
    begins = datetime.combine(due, time.min, ZoneInfo(zone)).timestamp()
    for _ in range(2):
        assert LIFETIMES.end_ms(request, CREATED_MS, zone) == round(begins * 1000)

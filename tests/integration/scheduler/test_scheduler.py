"""From users with something due to jobs in the queue, on real stores: who gets an email, when, and why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import structlog

from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.app_tables import AppTables, stored
from tests.support.clock import START, FakeClock
from tests.support.scheduler import SchedulerHarness, scheduler_harness

TOMORROW = stored(2026, 3, 3, 12)
YESTERDAY = stored(2026, 3, 1, 12)
HOUR_S, DAY_S = 3600, 86_400
REMINDER = "task-reminder"


async def due(app: AppTables, recipient: str, zone: str | None = "Europe/Paris", **columns: object) -> None:
    """A user with one task due tomorrow."""
    await app.user(recipient, {"timezone": zone} if zone else None, **columns)
    await app.task(recipient, "Write", TOMORROW)


async def test_user_with_tasks_due_gets_one_mail(app: AppTables, harness: SchedulerHarness) -> None:
    """At nine in Paris each local user with tasks due tomorrow gets one email with all of them."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    await due(app, "chiyo", "Asia/Tokyo")
    await app.user("ben")
    assert await harness.tick() == 1
    (mail,) = harness.fake_worker.delivered
    assert (mail.kind, mail.to, mail.context["taskCount"]) == (REMINDER, "ada@example.org", 2)
    (row,) = await harness.scheduled_mails()
    assert (row["state"], row["due_at"], row["expires_at"]) == ("sent", START, START + timedelta(hours=3))
    assert (row["zone"], row["source"], row["job_id"]) == ("Europe/Paris", "clock", mail.job_id)


async def test_mails_are_sent_at_nine_in_each_zone(app: AppTables, harness: SchedulerHarness) -> None:
    """Emails are sent at nine local time, also in zones with quarter-hour offsets."""
    zones = {"ada": "Europe/Paris", "ben": "America/New_York", "chi": "Pacific/Chatham", "dev": "Asia/Kolkata"}
    for recipient, zone in zones.items():
        await app.user(recipient, {"timezone": zone})
        for day in (3, 4):
            await app.task(recipient, "Write", stored(2026, 3, day, 12))
    for _ in range(24 * 4 + 1):
        await harness.tick()
        harness.clock.advance(HOUR_S / 4)
    times = {
        mail.to[:3]: mail.at for mail in harness.fake_worker.delivered if mail.kind == REMINDER and mail.at > START
    }
    assert times == {
        "ada": datetime(2026, 3, 3, 8, tzinfo=UTC),
        "ben": datetime(2026, 3, 2, 14, tzinfo=UTC),
        "chi": datetime(2026, 3, 2, 19, 15, tzinfo=UTC),
        "dev": datetime(2026, 3, 3, 3, 30, tzinfo=UTC),
    }


@pytest.mark.parametrize(
    "preferences",
    [None, [], "text", 7, *({"timezone": zone} for zone in ("Mars/Olympus", {"a": 1}, "localtime", "Factory"))],
)
async def test_unknown_zone_means_the_default_zone(
    app: AppTables, harness: SchedulerHarness, preferences: object
) -> None:
    """Preferences may hold any JSON; what is not a time zone means the default."""
    await app.user("ada", preferences)
    await app.task("ada", "Write", TOMORROW)
    assert await harness.tick() == 1


async def test_skip_reasons_are_recorded(app: AppTables, harness: SchedulerHarness) -> None:
    """Deleted, unverified, unsubscribed, suppressed or switched off: no email, and `explain` shows why."""
    await due(app, "del", deletedAt=stored(2026, 1, 1))
    await due(app, "unv", isEmailVerified=False)
    await due(app, "uns")
    await due(app, "bou")
    await app.user("off", {"timezone": "Europe/Paris", "notifications": {"taskReminders": False}})
    await app.task("off", "Write", TOMORROW)
    suppressions = Suppressions(harness.pool, harness.clock)
    await suppressions.unsubscribe("UNS@example.org", REMINDER)
    await suppressions.add("bou@example.org", "bounced")
    assert await harness.tick() == 0
    reasons = {
        "del": "the account is deleted",
        "unv": "the user has not verified the address",
        "uns": "the recipient has unsubscribed from this kind of email",
        "bou": "the address does not exist or rejects all email (hard bounce)",
        "off": "the user has switched these emails off",
    }
    assert await harness.outcomes() == {
        (REMINDER, recipient): ("skipped", reason) for recipient, reason in reasons.items()
    }
    for recipient, reason in reasons.items():
        (record,) = await MailHistory(harness.pool).explain(f"{recipient}@example.org")
        assert (record.kind, record.outcome, record.attempts[0].reason) == (REMINDER, "skipped", reason)


async def test_data_is_read_when_enqueuing(app: AppTables, harness: SchedulerHarness) -> None:
    """Tasks completed and users deleted between planning and enqueuing are not in any email."""
    for recipient in ("done", "gone", "kept"):
        await due(app, recipient)
    await harness.plan()
    await app.connection.execute("""UPDATE tasks SET "isCompleted" = true WHERE "userId" = 'done'""")
    await app.connection.execute("DELETE FROM users WHERE id = 'gone'")
    await harness.tick()
    assert await harness.outcomes() == {
        (REMINDER, "done"): ("skipped", "nothing due tomorrow"),
        (REMINDER, "gone"): ("skipped", "the user no longer exists"),
        (REMINDER, "kept"): ("sent", None),
    }


async def test_task_created_a_minute_before_is_included(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """Planning waits for the due time: everything that exists by then counts."""
    clock.advance(-120)
    await app.user("ada")
    await harness.tick()
    await app.task("ada", "Write", TOMORROW)
    clock.advance(120)
    assert await harness.tick() == 1


@pytest.mark.parametrize(("hours", "state"), [(2.9, "sent"), (3.1, "skipped")])
async def test_missed_run_is_caught_up_until_the_deadline(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock, hours: float, state: str
) -> None:
    """Until noon a daemon that was down sends the emails of nine o'clock; later it records that it was too late."""
    clock.advance(-DAY_S)
    await harness.tick()
    await due(app, "ada")
    clock.advance(DAY_S + hours * HOUR_S)
    await harness.tick()
    ended, reason = (await harness.outcomes())[REMINDER, "ada"]
    assert ended == state
    assert (reason is None) if state == "sent" else (reason or "").startswith("too late: ")


async def test_missed_days_are_recorded(app: AppTables, harness: SchedulerHarness, clock: FakeClock) -> None:
    """After three days down each missed email is recorded as too late, today's is sent."""
    for day in range(1, 8):
        await app.task(await app.user(f"p{day}"), "Write", stored(2026, 3, day, 12))
    clock.advance(-4 * DAY_S)
    await harness.tick()
    clock.advance(4 * DAY_S)
    await harness.tick()
    ends = {
        recipient: state for (kind, recipient), (state, _) in (await harness.outcomes()).items() if kind == REMINDER
    }
    assert ends == {"p1": "skipped", "p2": "skipped", "p3": "sent"}


async def test_new_installation_has_missed_nothing(app: AppTables, harness: SchedulerHarness, clock: FakeClock) -> None:
    """Without any earlier run, only occurrences whose deadline has not passed are planned."""
    await due(app, "ada")
    clock.advance(4 * HOUR_S)
    await harness.tick()
    assert await harness.scheduled_mails() == []


async def test_change_of_zone_gives_no_second_mail_on_one_date(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """A user who moves west after nine passes nine o'clock of the same date again, and gets no second email."""
    await app.user("ada", {"timezone": "Europe/Paris"})
    for hour in (6, 12, 22):
        await app.task("ada", "Write", stored(2026, 3, 3, hour))
    assert await harness.tick() == 1
    await app.connection.execute("""UPDATE users SET preferences = '{"timezone": "Pacific/Honolulu"}'""")
    for _ in range(23):
        clock.advance(HOUR_S)
        await harness.tick()
    dates = [row["local_date"] for row in await harness.scheduled_mails() if row["kind"] == REMINDER]
    assert len(dates) == len(set(dates)) == 1


async def test_per_task_sends_one_mail_per_task(
    migrated_url: str, app: AppTables, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """The legacy behaviour on demand: two tasks, two emails, two rows."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    async with scheduler_harness(migrated_url, connection, keys, clock, task_reminder_per_task="true") as harness:
        assert await harness.tick() == 2
        assert {mail.context["taskTitle"] for mail in harness.fake_worker.delivered} == {"Write", "Read"}
        assert {row["state"] for row in await harness.scheduled_mails()} == {"sent"}


async def test_at_most_max_queued_mails_wait(
    migrated_url: str, app: AppTables, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """With max_queued of four, four wait; the others follow when these were sent."""
    for number in range(10):
        await due(app, f"p{number}")
    async with scheduler_harness(migrated_url, connection, keys, clock, max_queued="4") as harness:
        await harness.plan()
        lengths = []
        for _ in range(6):
            await harness.scheduler.enqueuer.enqueue_due()
            lengths.append(await connection.execute("LLEN", keys("wait")))
            await harness.fake_worker.run_once()
        assert max(lengths) == 4
        assert len(harness.fake_worker.delivered) == 10


async def test_invalid_mail_does_not_hold_up_the_rest(app: AppTables, harness: SchedulerHarness) -> None:
    """A user with an invalid address: that email fails with the reason, the others are sent."""
    await due(app, "ada")
    await due(app, "bad", email="no address at all")
    await due(app, "eve")
    assert await harness.tick() == 2
    state, reason = (await harness.outcomes())[REMINDER, "bad"]
    assert state == "failed"
    assert "email address" in (reason or "")


async def test_log_messages_are_those_of_the_legacy_worker(app: AppTables, harness: SchedulerHarness) -> None:
    """Start, number found and end are logged in the texts of the legacy worker."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    with structlog.testing.capture_logs() as lines:
        await harness.tick()
        await harness.enqueue_due()
    messages = [line["message"] for line in lines if line.get("kind") == REMINDER and "message" in line]
    assert messages == [
        "Starting task reminder job",
        "Found 2 tasks due tomorrow",
        "Task reminder job completed: 1 reminders queued",
    ]


async def test_wrong_clock_for_a_moment_loses_nothing(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """After a jump by a year and back again, the scheduler continues where it was."""
    await due(app, "ada")
    clock.jump(-120)
    await harness.tick()
    clock.jump(365 * DAY_S)
    await harness.plan()
    clock.jump(-365 * DAY_S)
    clock.jump(120)
    assert await harness.tick() == 1


async def test_zone_unknown_on_this_machine_is_left_to_other_daemons(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """Planned by a machine with newer tzdata: left leased, logged, and recorded as too late in the end."""
    for recipient in ("ada", "ben"):
        await due(app, recipient)
    await harness.plan()
    async with harness.pool.acquire() as connection:
        await connection.execute(
            "UPDATE flowstate_daemon.scheduled_mails SET zone = 'Mars/Utopia' WHERE user_id = 'ada'"
        )
    with structlog.testing.capture_logs() as lines:
        assert await harness.tick() == 1
    assert [line["zones"] for line in lines if line["event"] == "time_zones_unknown"] == [["Mars/Utopia"]]
    assert (await harness.outcomes())[REMINDER, "ada"] == ("planned", None)
    clock.advance(3 * HOUR_S + 1)
    await harness.tick()
    state, reason = (await harness.outcomes())[REMINDER, "ada"]
    assert (state, "too late" in (reason or "")) == ("skipped", True)

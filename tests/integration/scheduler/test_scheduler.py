"""From people with something due to mails in the queue, on real stores: who gets what, when, and why others do not."""

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
from tests.support.scheduler import SchedulerHarness, scheduler_stage

TOMORROW = stored(2026, 3, 3, 12)
YESTERDAY = stored(2026, 3, 1, 12)
HOUR_S, DAY_S = 3600, 86_400
REMINDER = "task-reminder"


async def due(app: AppTables, recipient: str, zone: str | None = "Europe/Paris", **columns: object) -> None:
    """Somebody with one task that is due tomorrow."""
    await app.user(recipient, {"timezone": zone} if zone else None, **columns)
    await app.task(recipient, "Write", TOMORROW)


async def test_who_has_something_due_gets_one_mail(app: AppTables, stage: SchedulerHarness) -> None:
    """At nine in Paris, whoever lives there and has tasks due tomorrow gets one mail with all of them."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    await due(app, "chiyo", "Asia/Tokyo")
    await app.user("ben")
    assert await stage.tick() == 1
    (mail,) = stage.fake_worker.carried
    assert (mail.kind, mail.to, mail.context["taskCount"]) == (REMINDER, "ada@example.org", 2)
    (slot,) = await stage.scheduled_mails()
    assert (slot["state"], slot["due_at"], slot["expires_at"]) == ("sent", START, START + timedelta(hours=3))
    assert (slot["zone"], slot["source"], slot["job_id"]) == ("Europe/Paris", "clock", mail.job_id)


async def test_each_zone_has_its_own_nine_oclock(app: AppTables, stage: SchedulerHarness) -> None:
    """Mails leave at nine where each person lives, also where clocks differ by a quarter of an hour."""
    zones = {"ada": "Europe/Paris", "ben": "America/New_York", "chi": "Pacific/Chatham", "dev": "Asia/Kolkata"}
    for recipient, zone in zones.items():
        await app.user(recipient, {"timezone": zone})
        for day in (3, 4):
            await app.task(recipient, "Write", stored(2026, 3, day, 12))
    for _ in range(24 * 4 + 1):
        await stage.tick()
        stage.clock.advance(HOUR_S / 4)
    times = {mail.to[:3]: mail.at for mail in stage.fake_worker.carried if mail.kind == REMINDER and mail.at > START}
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
async def test_who_names_no_zone_lives_in_the_default_one(
    app: AppTables, stage: SchedulerHarness, preferences: object
) -> None:
    """Any JSON may stand in the preferences; what is no zone means the default."""
    await app.user("ada", preferences)
    await app.task("ada", "Write", TOMORROW)
    assert await stage.tick() == 1


async def test_each_skip_has_its_reason_in_slot_and_ledger(app: AppTables, stage: SchedulerHarness) -> None:
    """Deleted, unverified, unsubscribed, suppressed, switched off: no mail, and `explain` can say why."""
    await due(app, "del", deletedAt=stored(2026, 1, 1))
    await due(app, "unv", isEmailVerified=False)
    await due(app, "uns")
    await due(app, "bou")
    await app.user("off", {"timezone": "Europe/Paris", "notifications": {"taskReminders": False}})
    await app.task("off", "Write", TOMORROW)
    suppressions = Suppressions(stage.pool, stage.clock)
    await suppressions.unsubscribe("UNS@example.org", REMINDER)
    await suppressions.add("bou@example.org", "bounced")
    assert await stage.tick() == 0
    reasons = {
        "del": "the account is deleted",
        "unv": "the user has not verified the address",
        "uns": "the person has unsubscribed from this kind of mail",
        "bou": "the address does not exist or refuses all mail (hard bounce)",
        "off": "the user has switched these emails off",
    }
    assert await stage.outcomes() == {
        (REMINDER, recipient): ("skipped", reason) for recipient, reason in reasons.items()
    }
    for recipient, reason in reasons.items():
        (record,) = await MailHistory(stage.pool).explain(f"{recipient}@example.org")
        assert (record.kind, record.outcome, record.attempts[0].reason) == (REMINDER, "skipped", reason)


async def test_facts_are_those_of_the_last_moment(app: AppTables, stage: SchedulerHarness) -> None:
    """What was done or deleted between planning and feeding is not reminded of; nor is somebody who has left."""
    for recipient in ("done", "gone", "kept"):
        await due(app, recipient)
    await stage.plan()
    await app.connection.execute("""UPDATE tasks SET "isCompleted" = true WHERE "userId" = 'done'""")
    await app.connection.execute("DELETE FROM users WHERE id = 'gone'")
    await stage.tick()
    assert await stage.outcomes() == {
        (REMINDER, "done"): ("skipped", "nothing due tomorrow"),
        (REMINDER, "gone"): ("skipped", "the user no longer exists"),
        (REMINDER, "kept"): ("sent", None),
    }


async def test_a_task_made_a_minute_before_is_in(app: AppTables, stage: SchedulerHarness, clock: FakeClock) -> None:
    """Planning waits for the hour: whatever is there by then counts."""
    clock.advance(-120)
    await app.user("ada")
    await stage.tick()
    await app.task("ada", "Write", TOMORROW)
    clock.advance(120)
    assert await stage.tick() == 1


@pytest.mark.parametrize(("hours", "state"), [(2.9, "sent"), (3.1, "skipped")])
async def test_a_daemon_that_was_down_catches_up_in_the_window(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock, hours: float, state: str
) -> None:
    """Until noon yesterday's daemon makes up for nine o'clock; later it writes down that it was too late."""
    clock.advance(-DAY_S)
    await stage.tick()
    await due(app, "ada")
    clock.advance(DAY_S + hours * HOUR_S)
    await stage.tick()
    ended, reason = (await stage.outcomes())[REMINDER, "ada"]
    assert ended == state
    assert (reason is None) if state == "sent" else (reason or "").startswith("too late: ")


async def test_a_missed_week_is_told_of(app: AppTables, stage: SchedulerHarness, clock: FakeClock) -> None:
    """Three days down: each day's slot is recorded as too late, today's is sent."""
    for day in range(1, 8):
        await app.task(await app.user(f"p{day}"), "Write", stored(2026, 3, day, 12))
    clock.advance(-4 * DAY_S)
    await stage.tick()
    clock.advance(4 * DAY_S)
    await stage.tick()
    ends = {recipient: state for (kind, recipient), (state, _) in (await stage.outcomes()).items() if kind == REMINDER}
    assert ends == {"p1": "skipped", "p2": "skipped", "p3": "sent"}


async def test_a_new_installation_has_missed_nothing(app: AppTables, stage: SchedulerHarness, clock: FakeClock) -> None:
    """Without any round before, only windows that are still open are planned."""
    await due(app, "ada")
    clock.advance(4 * HOUR_S)
    await stage.tick()
    assert await stage.scheduled_mails() == []


async def test_moving_house_gives_no_second_mail_on_one_date(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock
) -> None:
    """Who flies west after nine sees another nine o'clock of the same date, and gets nothing then."""
    await app.user("ada", {"timezone": "Europe/Paris"})
    for hour in (6, 12, 22):
        await app.task("ada", "Write", stored(2026, 3, 3, hour))
    assert await stage.tick() == 1
    await app.connection.execute("""UPDATE users SET preferences = '{"timezone": "Pacific/Honolulu"}'""")
    for _ in range(23):
        clock.advance(HOUR_S)
        await stage.tick()
    dates = [slot["local_date"] for slot in await stage.scheduled_mails() if slot["kind"] == REMINDER]
    assert len(dates) == len(set(dates)) == 1


async def test_per_task_gives_each_task_its_mail(
    migrated_url: str, app: AppTables, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """The old way on demand: two tasks, two mails, two slots."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    async with scheduler_stage(migrated_url, connection, keys, clock, task_reminder_per_task="true") as stage:
        assert await stage.tick() == 2
        assert {mail.context["taskTitle"] for mail in stage.fake_worker.carried} == {"Write", "Read"}
        assert {slot["state"] for slot in await stage.scheduled_mails()} == {"sent"}


async def test_the_list_ahead_stays_short(
    migrated_url: str, app: AppTables, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """With room for four, four wait; the others are made when these have left, and all are sent in the end."""
    for number in range(10):
        await due(app, f"p{number}")
    async with scheduler_stage(migrated_url, connection, keys, clock, max_queued="4") as stage:
        await stage.plan()
        lengths = []
        for _ in range(6):
            await stage.scheduler.enqueuer.enqueue_due()
            lengths.append(await connection.execute("LLEN", keys("wait")))
            await stage.fake_worker.round()
        assert max(lengths) == 4
        assert len(stage.fake_worker.carried) == 10


async def test_a_mail_that_cannot_be_made_does_not_hold_up_the_rest(app: AppTables, stage: SchedulerHarness) -> None:
    """Somebody's address is none: that slot fails with the reason, the others are sent."""
    await due(app, "ada")
    await due(app, "bad", email="no address at all")
    await due(app, "eve")
    assert await stage.tick() == 2
    state, reason = (await stage.outcomes())[REMINDER, "bad"]
    assert state == "failed"
    assert "e-mail address" in (reason or "")


async def test_operators_find_the_lines_they_know(app: AppTables, stage: SchedulerHarness) -> None:
    """Start, number found and end are told in the old worker's words."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    with structlog.testing.capture_logs() as lines:
        await stage.tick()
        await stage.enqueue_due()
    messages = [line["message"] for line in lines if line.get("kind") == REMINDER and "message" in line]
    assert messages == [
        "Starting task reminder job",
        "Found 2 tasks due tomorrow",
        "Task reminder job completed: 1 reminders queued",
    ]


async def test_a_clock_that_was_wrong_for_a_moment_costs_nothing(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock
) -> None:
    """Put forward by a year and back again, the calendar goes on where it was."""
    await due(app, "ada")
    clock.jump(-120)
    await stage.tick()
    clock.jump(365 * DAY_S)
    await stage.plan()
    clock.jump(-365 * DAY_S)
    clock.jump(120)
    assert await stage.tick() == 1


async def test_a_zone_that_only_another_daemon_knows(app: AppTables, stage: SchedulerHarness, clock: FakeClock) -> None:
    """Planned by a machine with newer zones: left to it, told of, and in the end recorded as too late; no crash."""
    for recipient in ("ada", "ben"):
        await due(app, recipient)
    await stage.plan()
    async with stage.pool.acquire() as connection:
        await connection.execute(
            "UPDATE flowstate_daemon.scheduled_mails SET zone = 'Mars/Utopia' WHERE user_id = 'ada'"
        )
    with structlog.testing.capture_logs() as lines:
        assert await stage.tick() == 1
    assert [line["zones"] for line in lines if line["event"] == "time_zones_unknown"] == [["Mars/Utopia"]]
    assert (await stage.outcomes())[REMINDER, "ada"] == ("planned", None)
    clock.advance(3 * HOUR_S + 1)
    await stage.tick()
    state, reason = (await stage.outcomes())[REMINDER, "ada"]
    assert (state, "too late" in (reason or "")) == ("skipped", True)

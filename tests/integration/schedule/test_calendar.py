"""From people with something due to mails in the queue, on real stores: who gets what, when, and why others do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import structlog

from flowstate_daemon.database.stories import Stories
from flowstate_daemon.database.suppression import Suppressions
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys
from tests.support.application import Application, stored
from tests.support.calendar import Stage, calendar_stage
from tests.support.clock import START, HandClock

TOMORROW = stored(2026, 3, 3, 12)
YESTERDAY = stored(2026, 3, 1, 12)
HOUR_S, DAY_S = 3600, 86_400
REMINDER = "task-reminder"


async def due(app: Application, person: str, zone: str | None = "Europe/Paris", **columns: object) -> None:
    """Somebody with one task that is due tomorrow."""
    await app.user(person, {"timezone": zone} if zone else None, **columns)
    await app.task(person, "Write", TOMORROW)


async def test_who_has_something_due_gets_one_mail(app: Application, stage: Stage) -> None:
    """At nine in Paris, whoever lives there and has tasks due tomorrow gets one mail with all of them."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    await due(app, "chiyo", "Asia/Tokyo")
    await app.user("ben")
    assert await stage.tick() == 1
    (mail,) = stage.postman.carried
    assert (mail.kind, mail.to, mail.context["taskCount"]) == (REMINDER, "ada@example.org", 2)
    (slot,) = await stage.slots()
    assert (slot["state"], slot["due_at"], slot["expires_at"]) == ("sent", START, START + timedelta(hours=3))
    assert (slot["zone"], slot["source"], slot["job_id"]) == ("Europe/Paris", "clock", mail.job_id)


async def test_each_zone_has_its_own_nine_oclock(app: Application, stage: Stage) -> None:
    """Mails leave at nine where each person lives, also where clocks differ by a quarter of an hour."""
    zones = {"ada": "Europe/Paris", "ben": "America/New_York", "chi": "Pacific/Chatham", "dev": "Asia/Kolkata"}
    for person, zone in zones.items():
        await app.user(person, {"timezone": zone})
        for day in (3, 4):
            await app.task(person, "Write", stored(2026, 3, day, 12))
    for _ in range(24 * 4 + 1):
        await stage.tick()
        stage.clock.advance(HOUR_S / 4)
    times = {mail.to[:3]: mail.at for mail in stage.postman.carried if mail.kind == REMINDER and mail.at > START}
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
async def test_who_names_no_zone_lives_in_the_default_one(app: Application, stage: Stage, preferences: object) -> None:
    """Any JSON may stand in the preferences; what is no zone means the default."""
    await app.user("ada", preferences)
    await app.task("ada", "Write", TOMORROW)
    assert await stage.tick() == 1


async def test_each_skip_has_its_reason_in_slot_and_ledger(app: Application, stage: Stage) -> None:
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
        "unv": "the person has not verified the address",
        "uns": "the person has unsubscribed from this kind of mail",
        "bou": "the address does not exist or refuses all mail (hard bounce)",
        "off": "the person has switched these mails off",
    }
    assert await stage.ends() == {(REMINDER, person): ("skipped", why) for person, why in reasons.items()}
    for person, why in reasons.items():
        (story,) = await Stories(stage.pool).explain(f"{person}@example.org")
        assert (story.kind, story.outcome, story.tries[0].reason) == (REMINDER, "skipped", why)


async def test_facts_are_those_of_the_last_moment(app: Application, stage: Stage) -> None:
    """What was done or deleted between planning and feeding is not reminded of; nor is somebody who has left."""
    for person in ("done", "gone", "kept"):
        await due(app, person)
    await stage.plan()
    await app.connection.execute("""UPDATE tasks SET "isCompleted" = true WHERE "userId" = 'done'""")
    await app.connection.execute("DELETE FROM users WHERE id = 'gone'")
    await stage.tick()
    assert await stage.ends() == {
        (REMINDER, "done"): ("skipped", "nothing due tomorrow"),
        (REMINDER, "gone"): ("skipped", "the person is gone"),
        (REMINDER, "kept"): ("sent", None),
    }


async def test_a_task_made_a_minute_before_is_in(app: Application, stage: Stage, clock: HandClock) -> None:
    """Planning waits for the hour: whatever is there by then counts."""
    clock.advance(-120)
    await app.user("ada")
    await stage.tick()
    await app.task("ada", "Write", TOMORROW)
    clock.advance(120)
    assert await stage.tick() == 1


@pytest.mark.parametrize(("hours", "state"), [(2.9, "sent"), (3.1, "skipped")])
async def test_a_daemon_that_was_down_catches_up_in_the_window(
    app: Application, stage: Stage, clock: HandClock, hours: float, state: str
) -> None:
    """Until noon yesterday's daemon makes up for nine o'clock; later it writes down that it was too late."""
    clock.advance(-DAY_S)
    await stage.tick()
    await due(app, "ada")
    clock.advance(DAY_S + hours * HOUR_S)
    await stage.tick()
    ended, reason = (await stage.ends())[REMINDER, "ada"]
    assert ended == state
    assert (reason is None) if state == "sent" else (reason or "").startswith("too late: ")


async def test_a_missed_week_is_told_of(app: Application, stage: Stage, clock: HandClock) -> None:
    """Three days down: each day's slot is recorded as too late, today's is sent."""
    for day in range(1, 8):
        await app.task(await app.user(f"p{day}"), "Write", stored(2026, 3, day, 12))
    clock.advance(-4 * DAY_S)
    await stage.tick()
    clock.advance(4 * DAY_S)
    await stage.tick()
    ends = {person: state for (kind, person), (state, _) in (await stage.ends()).items() if kind == REMINDER}
    assert ends == {"p1": "skipped", "p2": "skipped", "p3": "sent"}


async def test_a_new_installation_has_missed_nothing(app: Application, stage: Stage, clock: HandClock) -> None:
    """Without any round before, only windows that are still open are planned."""
    await due(app, "ada")
    clock.advance(4 * HOUR_S)
    await stage.tick()
    assert await stage.slots() == []


async def test_moving_house_gives_no_second_mail_on_one_date(app: Application, stage: Stage, clock: HandClock) -> None:
    """Who flies west after nine sees another nine o'clock of the same date, and gets nothing then."""
    await app.user("ada", {"timezone": "Europe/Paris"})
    for hour in (6, 12, 22):
        await app.task("ada", "Write", stored(2026, 3, 3, hour))
    assert await stage.tick() == 1
    await app.connection.execute("""UPDATE users SET preferences = '{"timezone": "Pacific/Honolulu"}'""")
    for _ in range(23):
        clock.advance(HOUR_S)
        await stage.tick()
    dates = [slot["local_date"] for slot in await stage.slots() if slot["kind"] == REMINDER]
    assert len(dates) == len(set(dates)) == 1


async def test_per_task_gives_each_task_its_mail(
    migrated_url: str, app: Application, connection: Connection, keys: Keys, clock: HandClock
) -> None:
    """The old way on demand: two tasks, two mails, two slots."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    async with calendar_stage(migrated_url, connection, keys, clock, task_reminder_per_task="true") as stage:
        assert await stage.tick() == 2
        assert {mail.context["taskTitle"] for mail in stage.postman.carried} == {"Write", "Read"}
        assert {slot["state"] for slot in await stage.slots()} == {"sent"}


async def test_the_list_ahead_stays_short(
    migrated_url: str, app: Application, connection: Connection, keys: Keys, clock: HandClock
) -> None:
    """With room for four, four wait; the others are made when these have left, and all are sent in the end."""
    for number in range(10):
        await due(app, f"p{number}")
    async with calendar_stage(migrated_url, connection, keys, clock, ahead="4") as stage:
        await stage.plan()
        lengths = []
        for _ in range(6):
            await stage.calendar.feeder.feed_due()
            lengths.append(await connection.call("LLEN", keys("wait")))
            await stage.postman.round()
        assert max(lengths) == 4
        assert len(stage.postman.carried) == 10


async def test_a_mail_that_cannot_be_made_does_not_hold_up_the_rest(app: Application, stage: Stage) -> None:
    """Somebody's address is none: that slot fails with the reason, the others are sent."""
    await due(app, "ada")
    await due(app, "bad", email="no address at all")
    await due(app, "eve")
    assert await stage.tick() == 2
    state, reason = (await stage.ends())[REMINDER, "bad"]
    assert state == "failed"
    assert "e-mail address" in (reason or "")


async def test_operators_find_the_lines_they_know(app: Application, stage: Stage) -> None:
    """Start, number found and end are told in the old worker's words."""
    await due(app, "ada")
    await app.task("ada", "Read", TOMORROW)
    with structlog.testing.capture_logs() as lines:
        await stage.tick()
        await stage.feed()
    said = [line["said"] for line in lines if line.get("kind") == REMINDER and "said" in line]
    assert said == [
        "Starting task reminder job",
        "Found 2 tasks due tomorrow",
        "Task reminder job completed: 1 reminders queued",
    ]


async def test_a_clock_that_was_wrong_for_a_moment_costs_nothing(
    app: Application, stage: Stage, clock: HandClock
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


async def test_a_zone_that_only_another_daemon_knows(app: Application, stage: Stage, clock: HandClock) -> None:
    """Planned by a machine with newer zones: left to it, told of, and in the end recorded as too late; no crash."""
    for person in ("ada", "ben"):
        await due(app, person)
    await stage.plan()
    async with stage.pool.acquire() as connection:
        await connection.execute("UPDATE flowstate_daemon.notices SET zone = 'Mars/Utopia' WHERE user_id = 'ada'")
    with structlog.testing.capture_logs() as lines:
        assert await stage.tick() == 1
    assert [line["zones"] for line in lines if line["event"] == "zones_unknown"] == [["Mars/Utopia"]]
    assert (await stage.ends())[REMINDER, "ada"] == ("planned", None)
    clock.advance(3 * HOUR_S + 1)
    await stage.tick()
    state, reason = (await stage.ends())[REMINDER, "ada"]
    assert (state, "too late" in (reason or "")) == ("skipped", True)

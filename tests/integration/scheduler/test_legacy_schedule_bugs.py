"""Regression tests for the schedule bugs among the thirteen of the legacy worker.

The numbering is shared with `tests/process/test_legacy_bugs.py`, which tests those of sending.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from datetime import timedelta

import pytest

from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail_producer import NewMail, parse_new_mail
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import DeliveredMail, SchedulerHarness, scheduler_harness

BRAND = Brand("FlowState <hello@flowstate.example>", "FlowState", "https://flowstate.example", "en")
TOMORROW, YESTERDAY = stored(2026, 3, 3, 12), stored(2026, 3, 1, 12)  # of Monday, 2 March, 09:00 in Paris
HOUR_S, DAY_S = 3600, 86_400
TO_SUNDAY_EVENING_S = 6 * DAY_S + 8 * HOUR_S


def rendered(mail: DeliveredMail) -> Email:
    """The email as a worker renders it."""
    return Renderer(BRAND).render(parse_new_mail(NewMail(mail.kind, mail.to, mail.context)))


@pytest.mark.parametrize("servers", ["Pacific/Kiritimati", "Pacific/Honolulu"])
async def test_02_tomorrow_was_the_servers_and_the_hour_that_of_paris(
    app: AppTables, harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch, servers: str
) -> None:
    """Reminders are sent at nine local time for the local tomorrow, whatever the time zone of daemon and database."""
    monkeypatch.setenv("TZ", servers)
    time.tzset()
    name = await app.connection.fetchval("SELECT current_database()")
    await app.connection.execute(f"""ALTER DATABASE "{name}" SET timezone TO '{servers}'""")
    await harness.pool.expire_connections()
    # The last minute of the 3rd, both ends of the 4th, and the first minute of the 5th, where each of them lives.
    ends = {"Pacific/Auckland": stored(2026, 3, 3, 11), "America/Los_Angeles": stored(2026, 3, 4, 8)}
    for zone, begins in ends.items():
        await app.user(zone[-5:], {"timezone": zone})
        for title, minutes in (("before", -1), ("first", 0), ("last", 24 * 60 - 1), ("after", 24 * 60)):
            await app.task(zone[-5:], title, begins + timedelta(minutes=minutes))
    for _ in range(3 * 24):
        await harness.tick()
        harness.clock.advance(HOUR_S)
    monkeypatch.undo()
    time.tzset()
    output = {
        (mail.to[:5], f"{mail.at:%d %H}"): [task["title"] for task in mail.context["tasks"]]
        for mail in harness.fake_worker.delivered
        if mail.kind == "task-reminder" and mail.context["dueDate"] == "2026-03-04"
    }
    assert output == {("kland", "02 20"): ["first", "last"], ("geles", "03 17"): ["first", "last"]}


async def test_03_deleted_and_unverified_users_got_emails_without_opt_out(
    app: AppTables, harness: SchedulerHarness
) -> None:
    """Deleted, unverified, opted-out and unsubscribed users get no email; each reason is recorded."""
    await app.user("ada")
    await app.user("left", deletedAt=stored(2026, 3, 1))
    await app.user("unverified", isEmailVerified=False)
    await app.user("off", {"notifications": {"taskReminders": False, "overdueSummary": False}})
    await app.user("unsubscribed")
    for recipient in ("ada", "left", "unverified", "off", "unsubscribed"):
        await app.task(recipient, "Call back", TOMORROW)
    await Suppressions(harness.pool, harness.clock).unsubscribe("unsubscribed@example.org", "task-reminder")
    await harness.tick()
    assert [mail.to for mail in harness.fake_worker.delivered] == ["ada@example.org"]
    ends = {
        recipient: reason
        for (_, recipient), (state, reason) in (await harness.outcomes()).items()
        if state == "skipped"
    }
    assert ends == {
        "left": "the account is deleted",
        "unverified": "the user has not verified the address",
        "off": "the user has switched these emails off",
        "unsubscribed": "the recipient has unsubscribed from this kind of email",
    }


async def test_04_twelve_tasks_due_tomorrow_were_twelve_emails(app: AppTables, harness: SchedulerHarness) -> None:
    """Twelve tasks are one email, which lists all of them in both parts."""
    await app.user("ada")
    titles = [f"Task number {number}." for number in range(12)]
    for title in titles:
        await app.task("ada", title, TOMORROW)
    assert await harness.tick() == 1
    mail = rendered(harness.fake_worker.delivered[0])
    assert [title for title in titles if title not in mail.html or title not in mail.text] == []


async def test_05_overdue_count_was_limited_to_ten(app: AppTables, harness: SchedulerHarness, clock: FakeClock) -> None:
    """Of twenty-five tasks the subject counts all, the ten oldest are listed, and fifteen more are mentioned."""
    await app.user("ada")
    for days in range(25):
        await app.task("ada", f"Task number {days}.", YESTERDAY - timedelta(days=days))
    clock.advance(HOUR_S / 2)
    assert await harness.tick() == 1
    mail = rendered(harness.fake_worker.delivered[0])
    assert "25" in mail.subject
    assert "15 more" in mail.text
    assert [days for days in range(25) if f"Task number {days}." in mail.text] == list(range(15, 25))


async def test_06_sessions_without_a_rating_counted_as_zero(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """The average covers rated sessions only; a week without any rating shows none."""
    for recipient, ratings in (("ada", (5, None, 4)), ("ben", (None, None))):
        await app.user(recipient)
        for day, rating in enumerate(ratings, 4):
            await app.session(recipient, stored(2026, 3, day, 12), focusRating=rating)
    clock.advance(TO_SUNDAY_EVENING_S)
    assert await harness.tick() == 2
    ada, ben = sorted(harness.fake_worker.delivered, key=lambda mail: mail.to)
    assert (ada.context["averageRating"], ada.context["ratedSessions"]) == (4.5, 2)
    assert "4.5" in rendered(ada).text
    assert ben.context["averageRating"] is None
    assert "/5" not in rendered(ben).text


async def test_08_two_replicas_sent_twice_and_downtime_skipped_the_day(
    app: AppTables, migrated_url: str, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Two daemons that were down at nine catch up at half past ten, with one email in total."""
    await app.user("ada")
    await app.task("ada", "Call back", TOMORROW)
    clock.advance(1.5 * HOUR_S)
    async with (
        scheduler_harness(migrated_url, connection, keys, clock) as one,
        scheduler_harness(migrated_url, connection, keys, clock) as other,
    ):
        await asyncio.gather(one.plan(), other.plan())
        await asyncio.gather(one.enqueue_due(), other.enqueue_due())
        assert sorted([await one.fake_worker.run_once(), await other.fake_worker.run_once()]) == [0, 1]
        clock.advance(60)
        assert [await one.tick(), await other.tick()] == [0, 0]


async def test_13_all_users_were_loaded_into_memory_for_a_report(
    app: AppTables, migrated_url: str, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Four times as many reports are planned and enqueued with hardly more memory."""
    peaks = []
    async with scheduler_harness(migrated_url, connection, keys, clock, max_queued="100000") as harness:
        for count, first in ((1_000, 0), (4_000, 1_000)):
            await crowd(app, first, count)
            clock.advance(TO_SUNDAY_EVENING_S if not first else 7 * DAY_S)
            tracemalloc.start()
            await harness.plan()
            assert await harness.enqueue_due() >= count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


async def crowd(app: AppTables, first: int, count: int) -> None:
    """Users with a session in the second week of March; the first users, in the first week."""
    recipients = f"generate_series({first}, {first + count - 1}) AS n"
    await app.connection.execute(
        f"""INSERT INTO users (id, email, password, "isEmailVerified", "updatedAt")
        SELECT 'u' || n, n || '@mail.dev', '', true, now() FROM {recipients}"""
    )
    day = "2026-03-13" if first else "2026-03-05"
    await app.connection.execute(
        f"""INSERT INTO focus_sessions (id, "userId", "plannedDuration", "startTime")
        SELECT 's' || n, 'u' || n, 25, '{day} 12:00' FROM {recipients}"""
    )

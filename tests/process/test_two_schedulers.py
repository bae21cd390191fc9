"""Two daemons schedule the same emails while they are killed in turn: each user gets each email once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.process.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

RECIPIENTS = 1_500
KILLS = 4
NOON = 12
INSERT_USERS = """
INSERT INTO users (id, email, password, "isEmailVerified", preferences, "updatedAt")
SELECT 'p' || n, 'p' || n || '@example.org', '', true, jsonb_build_object('timezone', $1::text), now()
FROM generate_series(1, $2::integer) AS n;
"""
INSERT_TASKS = """
INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
SELECT 't' || id, id, 'Write', $1::timestamp, now() FROM users;
"""
STEPS = """
SELECT array_agg(DISTINCT decision ->> 'check' ORDER BY decision ->> 'check')
FROM flowstate_daemon.mails, jsonb_array_elements(decisions) AS decision
WHERE outcome = 'sent';
"""


def zone_at_noon(now: datetime) -> str:
    """A zone in which it is noon, so that nine o'clock has passed. The signs of Etc/GMT zones are reversed."""
    east = (NOON - now.hour + 11) % 24 - 11
    return f"Etc/GMT{-east:+d}"


@pytest.mark.timeout(300)
async def test_two_schedulers_send_each_email_once_despite_kills(
    make_daemon: MakeDaemon, provider: FakeResend, database_url: str
) -> None:
    """Two daemons that schedule and enqueue at the same time, killed in turn, send 1,500 reminders once each."""
    provider.latency_s = 0.1
    now = datetime.now(UTC)  # the daemons use the real clock
    connection = await asyncpg.connect(database_url)
    await connection.execute(INSERT_USERS, zone_at_noon(now), RECIPIENTS)
    await connection.execute(
        INSERT_TASKS, (now + timedelta(days=1)).replace(tzinfo=None)
    )  # at this hour, far from any midnight
    settings = {
        "DATABASE_URL": database_url,
        "FLOWSTATE_SCHEDULE_TASK_REMINDER_DEADLINE": "23:30",
        "FLOWSTATE_SCHEDULE_OVERDUE_SUMMARY": "false",
        "FLOWSTATE_SCHEDULE_FOCUS_REPORT": "false",
        "FLOWSTATE_SCHEDULE_MAX_QUEUED": "100",  # so low that both daemons enqueue repeatedly
        "FLOWSTATE_QUEUE_CONCURRENCY": "50",
    }

    daemons_by_name: dict[str, list[Daemon]] = {"one": [], "two": []}
    for name, daemons in daemons_by_name.items():
        daemons.append(make_daemon(name, **settings))
        await daemons[-1].start()
    rng = random.Random(5)
    for number in range(KILLS):
        goal = (number + 1) * RECIPIENTS // (KILLS + 2)
        await eventually(lambda goal=goal: accepted(provider, goal), f"{goal} emails", within_s=60)
        await asyncio.sleep(rng.uniform(0.0, 0.3))  # a random time of the kill is the purpose of this test
        name = ("one", "two")[number % 2]
        await daemons_by_name[name][-1].kill()
        daemons_by_name[name].append(make_daemon(name, **settings))
        await daemons_by_name[name][-1].start()

    async def all_ended() -> bool:
        states = await connection.fetch("SELECT DISTINCT state FROM flowstate_daemon.scheduled_mails")
        return [row["state"] for row in states] == ["sent"]

    await eventually(all_ended, "all emails sent", within_s=120)
    counts = Counter(address_of(mail.to) for mail in provider.accepted)
    assert counts == {f"p{number}@example.org": 1 for number in range(1, RECIPIENTS + 1)}
    assert provider.duplicates() == []
    assert await connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == RECIPIENTS
    assert await connection.fetchval(STEPS) == ["eligible", "preference", "rate", "suppression"]
    assert all(
        any(daemon.events("scheduled_mails_enqueued") for daemon in daemons) for daemons in daemons_by_name.values()
    )
    await connection.close()


async def accepted(provider: FakeResend, count: int) -> bool:
    return len(provider.accepted) >= count


def address_of(to: object) -> object:
    return to[0] if isinstance(to, (list, tuple)) else to

"""Two daemons plan and feed the same slots, and one after the other is killed: each person gets each mail once."""

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
RECIPIENTS_THERE = """
INSERT INTO users (id, email, password, "isEmailVerified", preferences, "updatedAt")
SELECT 'p' || n, 'p' || n || '@example.org', '', true, jsonb_build_object('timezone', $1::text), now()
FROM generate_series(1, $2::integer) AS n;
"""
DUE = """
INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
SELECT 't' || id, id, 'Write', $1::timestamp, now() FROM users;
"""
STEPS = """
SELECT array_agg(DISTINCT decision ->> 'check' ORDER BY decision ->> 'check')
FROM flowstate_daemon.mails, jsonb_array_elements(decisions) AS decision
WHERE outcome = 'sent';
"""


def where_it_is_noon(now: datetime) -> str:
    """A zone where nine o'clock was some hours ago; these count westwards."""
    east = (NOON - now.hour + 11) % 24 - 11
    return f"Etc/GMT{-east:+d}"


@pytest.mark.timeout(300)
async def test_two_daemons_and_kills_send_each_slot_once(
    make_daemon: MakeDaemon, provider: FakeResend, database_url: str
) -> None:
    """1,500 reminders, two daemons that plan and feed at once, SIGKILL now for the one, now for the other."""
    provider.latency_s = 0.1
    now = datetime.now(UTC)  # the daemons live by the real clock
    connection = await asyncpg.connect(database_url)
    await connection.execute(RECIPIENTS_THERE, where_it_is_noon(now), RECIPIENTS)
    await connection.execute(DUE, (now + timedelta(days=1)).replace(tzinfo=None))  # at this hour, far from any midnight
    settings = {
        "DATABASE_URL": database_url,
        "FLOWSTATE_SCHEDULE_TASK_REMINDER_DEADLINE": "23:30",
        "FLOWSTATE_SCHEDULE_OVERDUE_SUMMARY": "false",
        "FLOWSTATE_SCHEDULE_FOCUS_REPORT": "false",
        "FLOWSTATE_SCHEDULE_MAX_QUEUED": "100",  # so that both feed, again and again
        "FLOWSTATE_QUEUE_CONCURRENCY": "50",
    }

    lives: dict[str, list[Daemon]] = {"one": [], "two": []}
    for name, daemons in lives.items():
        daemons.append(make_daemon(name, **settings))
        await daemons[-1].start()
    chance = random.Random(5)
    for number in range(KILLS):
        goal = (number + 1) * RECIPIENTS // (KILLS + 2)
        await eventually(lambda goal=goal: accepted(provider, goal), f"{goal} mails", within_s=60)
        await asyncio.sleep(chance.uniform(0.0, 0.3))  # the moment of the kill is what is tried here
        name = ("one", "two")[number % 2]
        await lives[name][-1].kill()
        lives[name].append(make_daemon(name, **settings))
        await lives[name][-1].start()

    async def all_ended() -> bool:
        states = await connection.fetch("SELECT DISTINCT state FROM flowstate_daemon.scheduled_mails")
        return [row["state"] for row in states] == ["sent"]

    await eventually(all_ended, "all slots sent", within_s=120)
    got = Counter(one_of(mail.to) for mail in provider.accepted)
    assert got == {f"p{number}@example.org": 1 for number in range(1, RECIPIENTS + 1)}
    assert provider.duplicates() == []
    assert await connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == RECIPIENTS
    assert await connection.fetchval(STEPS) == ["eligible", "preference", "rate", "suppression"]
    assert all(any(daemon.events("scheduled_mails_enqueued") for daemon in daemons) for daemons in lives.values())
    await connection.close()


async def accepted(provider: FakeResend, count: int) -> bool:
    return len(provider.accepted) >= count


def one_of(to: object) -> object:
    return to[0] if isinstance(to, (list, tuple)) else to

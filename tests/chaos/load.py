"""The load of a chaos round: a producer that knows what was acknowledged, and users with scheduled emails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.chaos.history import Produced

TICKS_PER_S = 10
CODES = 0.1  # the share of codes, the rest is bulk
REFUSED_DOMAIN = "example.com"  # the provider refuses it, as Resend does
ADD_WITHIN_S = 5.0
NOON = 12
KINDS = ("task-reminder", "overdue-summary", "focus-report")
DUE_AT = (0.05, 0.25, 0.45)  # of the round
INSERT_USERS = """
INSERT INTO users (id, email, password, "isEmailVerified", preferences, "updatedAt")
SELECT 'u' || n, 'user' || n || '@mail.dev', '', true, jsonb_build_object('timezone', $1::text), now()
FROM generate_series(1, $2::integer) AS n;
"""
INSERT_TASKS = """
INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
SELECT 'd' || id, id, 'Write', $1::timestamp, now() FROM users
UNION ALL SELECT 'o' || id, id, 'Read', $2::timestamp, now() FROM users;
"""
INSERT_SESSIONS = """
INSERT INTO focus_sessions (id, "userId", "startTime", "endTime", "plannedDuration", "actualDuration")
SELECT 's' || id, id, $1::timestamp, $1::timestamp + interval '25 minutes', 25, 25 FROM users;
"""


class Producer:
    """Adds emails at a steady rate, each to its own person, directly to Redis: the faults are the daemon's alone."""

    def __init__(self, url: str, keys: Keys, rate: float, random: Random) -> None:
        self.lock = asyncio.Lock()  # held while a call is under way, and by who replaces Redis
        self.produced: list[Produced] = []
        self.refused_share = 0.0
        self._keys = keys
        self._rate = rate
        self._random = random
        self._number = 0
        self._connect(url)

    def _connect(self, url: str) -> None:
        self._connection = Connection(url, client_name="producer")
        bull = BullQueue(self._connection, self._keys, Clock(), token="producer")
        self._producer = MailProducer(bull, attempts=3, backoff_ms=2000)  # what the backend writes

    async def run(self, seconds: float) -> None:
        """Add emails for this long."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        due = 0
        while (passed := loop.time() - started) < seconds:
            async with self.lock:
                count = int(passed * self._rate) - due
                if count:
                    await self._add(count)
                due += count
            await asyncio.sleep(1 / TICKS_PER_S)

    async def _add(self, count: int) -> None:
        mails = [self._new_mail() for _ in range(count)]
        try:
            async with asyncio.timeout(ADD_WITHIN_S):
                added = await self._producer.enqueue_many(mails)
        except (StoreUnavailableError, TimeoutError):
            self.produced += [Produced(mail.to, mail.kind, None) for mail in mails]
            return
        self.produced += [Produced(mail.to, mail.kind, row.id) for row, mail in zip(added, mails, strict=True)]

    def _new_mail(self) -> NewMail:
        self._number += 1
        domain = REFUSED_DOMAIN if self._random.random() < self.refused_share else "mail.dev"
        to = f"person{self._number}@{domain}"
        if self._random.random() >= CODES:
            return NewMail("welcome", to, {"name": f"Ada {self._number}"})
        kind = self._random.choice(["otp", "password-reset"])
        return NewMail(kind, to, {"otpCode": f"{self._number % 1_000_000:06}"})

    async def redis_replaced(self, url: str, last_id: int) -> None:
        """Continue with another Redis, which knows the jobs up to this id only. Call it with the lock held."""
        await self.close()
        self._connect(url)
        self.produced = [email.lost_after(last_id) for email in self.produced]

    async def close(self) -> None:
        await self._connection.close()


@dataclass(frozen=True, slots=True)
class ScheduledLoad:
    """Users who all get one email of each scheduled kind in a round, and the settings that make them due in it."""

    users: int
    zone: str
    settings: Mapping[str, str]

    @property
    def expected(self) -> tuple[tuple[str, str], ...]:
        """Address and kind of each email."""
        return tuple((f"user{number}@mail.dev", kind) for number in range(1, self.users + 1) for kind in KINDS)


def scheduled_load(users: int, now: datetime, seconds: float) -> ScheduledLoad:
    """The kinds are due at full minutes, spread over the first half of the round. Pure.

    The users live where it is noon, so that no midnight and no deadline is near. The signs of Etc/GMT zones are
    reversed.
    """
    east = (NOON - now.hour + 11) % 24 - 11
    settings = {"FLOWSTATE_SCHEDULE_MAX_QUEUED": "100"}
    deadlines = {"task-reminder": "23:30", "overdue-summary": "23:30", "focus-report": "23:30"}
    for kind, part in zip(KINDS, DUE_AT, strict=True):
        due = now + timedelta(seconds=seconds * part + 59, hours=east)
        name = f"FLOWSTATE_SCHEDULE_{kind.replace('-', '_').upper()}"
        settings |= {f"{name}_CRON": f"{due.minute} {due.hour} * * *", f"{name}_DEADLINE": deadlines[kind]}
    return ScheduledLoad(users, f"Etc/GMT{-east:+d}", settings)


async def insert_users(url: str, load: ScheduledLoad) -> None:
    """Each user has a task due tomorrow, an overdue one, and a focus session of yesterday."""
    connection = await asyncpg.connect(url)
    now = datetime.now(UTC).replace(tzinfo=None)
    try:
        await connection.execute(INSERT_USERS, load.zone, load.users)
        await connection.execute(INSERT_TASKS, now + timedelta(days=1), now - timedelta(days=3))
        await connection.execute(INSERT_SESSIONS, now - timedelta(days=1))
    finally:
        await connection.close()

"""The load of a fault run: a producer that knows what was acknowledged, and the account of what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys

TICKS_PER_S = 10
CODES = 0.1  # the share of codes, the rest is bulk


class Producer:
    """Adds emails at a steady rate, each to its own person, directly to Redis: the faults are the daemon's alone."""

    def __init__(self, url: str, keys: Keys, rate: float, random: Random) -> None:
        self.lock = asyncio.Lock()  # held during a call, and by who replaces Redis
        self.acknowledged = 0
        self.unknown = 0
        self.required: dict[int, str] = {}  # recipient by job id: acknowledged, and not lost with Redis
        self._keys = keys
        self._rate = rate
        self._random = random
        self._number = 0
        self._connect(url)

    def _connect(self, url: str) -> None:
        self._connection = Connection(url, client_name="producer")
        bull = BullQueue(self._connection, self._keys, Clock(), token="producer")
        self._producer = MailProducer(bull, attempts=4, backoff_ms=2000)

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
            added = await self._producer.enqueue_many(mails)
        except StoreUnavailableError:
            self.unknown += count
            return
        self.acknowledged += count
        self.required |= {int(result.id): mail.to for result, mail in zip(added, mails, strict=True)}

    def _new_mail(self) -> NewMail:
        self._number += 1
        to = f"person{self._number}@mail.dev"
        if self._random.random() >= CODES:
            return NewMail("welcome", to, {"name": f"Ada {self._number}"})
        kind = self._random.choice(["otp", "password-reset"])
        return NewMail(kind, to, {"otpCode": f"{self._number % 1_000_000:06}"})

    async def redis_replaced(self, url: str, last_id: int) -> None:
        """Continue with another Redis, which knows the jobs up to this id only. Call it with the lock held."""
        await self.close()
        self._connect(url)
        self.required = {number: to for number, to in self.required.items() if number <= last_id}

    async def close(self) -> None:
        await self._connection.close()


@dataclass
class Account:
    """What became of the emails of a run."""

    acknowledged: int
    required: int
    accepted: int
    lost: int
    twice: int
    failed: int
    failed_reasons: Mapping[str, int]
    ledger: Mapping[str, int]
    ledger_wrong: int | None  # None without Postgres

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def connect(url: str) -> Redis:
    """A client that sees what the daemons leave behind."""
    return Redis.from_url(url, decode_responses=True, protocol=2)


async def unsettled(redis: Redis, keys: Keys) -> int:
    """How many jobs wait or are in flight."""
    lists = [int(await redis.llen(keys(name))) for name in ("wait", "active", "paused")]
    return sum(lists) + int(await redis.zcard(keys("delayed")))


async def balance(
    producer: Producer, accepted: Mapping[str, str], redis: Redis, keys: Keys, database_url: str | None
) -> Account:
    """Compare what was acknowledged with what the provider has accepted: recipient by provider id."""
    found = Counter(accepted.values())
    failed = await _failed(redis, keys)
    outcomes: Counter[str] = Counter()
    ledger_wrong = None
    if database_url is not None:
        outcomes, ledger_wrong = await _ledger_errors(database_url, accepted, set(producer.required.values()))
    return Account(
        acknowledged=producer.acknowledged,
        required=len(producer.required),
        accepted=len(accepted),
        lost=sum(1 for to in producer.required.values() if not found[to] and to not in failed),
        twice=sum(count - 1 for count in found.values()),
        failed=len(failed),
        failed_reasons=dict(Counter(failed.values())),
        ledger=dict(outcomes),
        ledger_wrong=ledger_wrong,
    )


async def _failed(redis: Redis, keys: Keys) -> dict[str, str]:
    """The reason of each failed job by recipient."""
    failed = {}
    for job_id in await redis.zrange(keys("failed"), 0, -1):
        data, reason = await redis.hmget(keys.job(job_id), "data", "failedReason")
        failed[msgspec.json.decode(data)["to"]] = str(reason)
    return failed


async def _ledger_errors(url: str, accepted: Mapping[str, str], required: set[str]) -> tuple[Counter[str], int]:
    """The ledger's outcomes, and how many of its rows are missing, too many or untrue."""
    server = await asyncpg.connect(url)
    try:
        rows = await server.fetch("SELECT address, outcome, provider_id FROM flowstate_daemon.mails")
    finally:
        await server.close()
    sent = Counter((row["provider_id"], row["address"]) for row in rows if row["outcome"] == "sent")
    wanted = Counter(accepted.items())
    settled = {row["address"] for row in rows}
    wrong = (sent - wanted).total() + (wanted - sent).total() + len(required - settled)
    return Counter(row["outcome"] for row in rows), wrong

"""A week of invented emails around a moment: ledger, provider events, statistics, jobs of the queue, lists, audit.

For tests and screenshots of the operator's pages. The same moment always gives the same data.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import asyncpg
import msgspec
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import LATENCY_BUCKETS
from flowstate_daemon.database.ledger import Decision, Ledger, Outcome
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.message import ProviderEvent
from flowstate_daemon.operations.statistics import (
    HOUR_MS,
    MINUTE_MS,
    QUARTER_MS,
    MinuteStatistics,
    day_key,
    hour_key,
    total,
)
from flowstate_daemon.queue.audit import OperatorAction
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture

DOMAIN = "example.org"
NAMES = (
    *("ada.lovelace", "grace.hopper", "alan.turing", "katherine.johnson", "edsger", "barbara.liskov", "donald.knuth"),
    *("margaret.hamilton", "tim.bl", "radia.perlman", "dennis.r", "frances.allen", "leslie.lamport", "jean.bartik"),
)
COMPLAINING, UNSUBSCRIBED, BOUNCED = f"edsger@{DOMAIN}", f"grace.hopper@{DOMAIN}", f"alan.turing@{DOMAIN}"
KINDS_OF_HISTORY = ("welcome", "otp", "task-reminder", "overdue-summary", "project-invitation", "goal-milestone")
REASONS_TO_SKIP = ("the recipient has unsubscribed from this kind of email", "the task is done")
FAILURES = (
    ("422 validation_error: Invalid `to` field. The email address needs to follow the `email@example.com` format.", 7),
    ("the provider answered 500: internal_server_error; attempt 4 of 4", 4),
    ("this welcome cannot be sent: Object missing required field `name` - at `$.context`", 2),
)
SAMPLE_CODE = "482913"
DECISIONS = (Decision("expiry", "pass"), Decision("suppression", "pass"), Decision("preference", "pass"))


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the history is written."""

    pool: asyncpg.Pool
    redis: Redis
    keys: Keys


async def write_history(stores: Stores, now: datetime, *, emails: int = 400) -> None:
    """Everything; `emails` are spread over the seven days before `now`."""
    random_source = random.Random(12)
    now_ms = int(now.timestamp() * 1000)
    ledger = Ledger(stores.pool, Clock())
    outcomes = list(history(random_source, now_ms, emails, stores.keys.base))
    for start in range(0, len(outcomes), 500):
        await ledger.write(outcomes[start : start + 500])
    await ledger.record_events(list(events_of(random_source, outcomes)), own_domain=DOMAIN)
    await write_statistics(stores, random_source, now_ms)
    await write_jobs(stores, now_ms)
    await write_lists(stores, now_ms)


def history(random_source: random.Random, now_ms: int, emails: int, base: str) -> Iterator[Outcome]:
    """One or two outcomes for each email, oldest first."""
    week_ms = int(timedelta(days=7).total_seconds() * 1000)
    for number in range(emails):
        added = now_ms - week_ms + week_ms * number // emails
        luck = random_source.random()
        if luck < 0.05 and KINDS_OF_HISTORY[number % len(KINDS_OF_HISTORY)] != "otp":
            reason = random_source.choice(REASONS_TO_SKIP)
            skipped = make_outcome(base, number, added, 1, "skipped", 40, reason)
            yield replace(skipped, decisions=(Decision("preference", "skip", reason),))
        elif luck > 0.94:
            yield make_outcome(base, number, added, 1, "retried", 300, "the provider answered 503: try again")
            yield make_outcome(base, number, added, 2, "sent", 2_400)
        else:
            yield make_outcome(base, number, added, 1, "sent", random_source.randint(60, 900))


def make_outcome(
    base: str, number: int, added: int, attempt: int, name: str, after_ms: int, reason: str | None = None
) -> Outcome:
    """One attempt of email `number`, added at `added` (Unix ms)."""
    return Outcome(
        key=f"{base}s{number}:{added}:{attempt}",
        at=added + after_ms,
        job_id=f"s{number}",
        kind=KINDS_OF_HISTORY[number % len(KINDS_OF_HISTORY)],
        to=f"{NAMES[number % len(NAMES)]}@{DOMAIN}",
        attempt=attempt,
        outcome=name,
        provider_id=f"4ef9a417-02e9-4d39-ad75-{number:012d}" if name == "sent" else None,
        reason=reason,
        decisions=DECISIONS,
    )


def events_of(random_source: random.Random, outcomes: list[Outcome]) -> Iterator[ProviderEvent]:
    """What the provider reported of what was sent: delivered, opened, rarely bounced, once complained."""
    sent = [one for one in outcomes if one.outcome == "sent"]
    for number, one in enumerate(sent):
        if one.to == BOUNCED and number % 3 == 0:
            yield make_event(one, "bounced", 2_000, "550 5.1.1 mailbox does not exist", "bounced")
            continue
        yield make_event(one, "delivered", 1_500)
        if random_source.random() < 0.4:
            yield make_event(one, "opened", 600_000)
    complained = next(one for one in reversed(sent) if one.to == COMPLAINING)
    yield make_event(complained, "complained", 9_000, None, "complained")


def make_event(
    sent: Outcome, kind: str, after_ms: int, reason: str | None = None, suppress: str | None = None
) -> ProviderEvent:
    """An event about a sent email."""
    return ProviderEvent(
        f"msg_{sent.job_id}_{kind}", sent.provider_id or "", kind, sent.at + after_ms, sent.to, reason, suppress
    )


async def write_statistics(stores: Stores, random_source: random.Random, now_ms: int) -> None:
    """A minute with emails for each ten of the week, each of the last hour; busier by day than by night."""
    first = (now_ms - 7 * 24 * HOUR_MS) // MINUTE_MS * MINUTE_MS
    by_hour: dict[str, dict[str, bytes]] = {}
    quarters: dict[int, list[MinuteStatistics]] = {}
    for at in range(first, now_ms + 1, MINUTE_MS):
        if (at // MINUTE_MS) % 10 and now_ms - at > HOUR_MS:
            continue
        busy = 1 + math.sin((at % (24 * HOUR_MS)) / (24 * HOUR_MS) * 2 * math.pi - math.pi / 2)
        sent = int(60 + 420 * busy * random_source.uniform(0.8, 1.2))
        minute = MinuteStatistics(
            sent=sent,
            failed=int(random_source.random() < 0.04) * 3,
            retried=int(random_source.random() < 0.08) * 5,
            urgent=spread(random_source, sent // 12, middle=4),
            bulk=spread(random_source, sent - sent // 12, middle=6),
        )
        quarters.setdefault(at // QUARTER_MS * QUARTER_MS, []).append(minute)
        by_hour.setdefault(hour_key(stores.keys, at), {})[f"{at}:mail-1"] = msgspec.json.encode(minute)
    for at, minutes in quarters.items():
        await stores.redis.hset(day_key(stores.keys, at), f"{at}:mail-1:1", msgspec.json.encode(total(minutes)))
    for key, fields in by_hour.items():
        await stores.redis.hset(key, mapping=fields)


def spread(random_source: random.Random, count: int, *, middle: int) -> tuple[int, ...]:
    """Counts by latency bucket around one of them."""
    shares = [math.exp(-((place - middle) ** 2)) for place in range(len(LATENCY_BUCKETS) + 1)]
    whole = sum(shares)
    return tuple(round(count * share / whole * random_source.uniform(0.7, 1.3)) for share in shares)


async def write_jobs(stores: Stores, now_ms: int) -> None:
    """Failed jobs of three reasons, a failed code, and delayed emails."""
    queue = QueueFixture(stores.redis, stores.keys)
    number = 0
    for reason, count in FAILURES:
        for _ in range(count):
            number += 1
            context = {} if "name" in reason else {"name": "Ada"}
            await _put(queue, f"f{number}", "failed", now_ms - number * 240_000, "welcome", context, reason)
    code = {"otpCode": SAMPLE_CODE, "expirationMinutes": 10}
    await _put(queue, "f-code", "failed", now_ms - 50_000, "otp", code, "the provider answered 500; attempt 4 of 4")
    for later in range(3):
        await _put(queue, f"d{later}", "delayed", now_ms + (later + 1) * 3_600_000, "welcome", {"name": "Ada"}, None)


async def _put(
    queue: QueueFixture, job_id: str, state: str, at: int, kind: str, context: dict[str, object], reason: str | None
) -> None:
    to = f"{NAMES[sum(job_id.encode()) % len(NAMES)]}@{DOMAIN}"
    failed = {} if reason is None else {"failedReason": reason, "finishedOn": at, "attemptsMade": 4}
    data = msgspec.json.encode({"type": kind, "to": to, "context": context}).decode()
    options = '{"attempts": 4, "backoff": {"type": "exponential", "delay": 2000}}'
    added = at - 60_000
    await queue.put(job_id, state, at=at, name=kind, data=data, opts=options, **{"timestamp": added, **failed})


async def write_lists(stores: Stores, now_ms: int) -> None:
    """A suppression by an operator, an unsubscribe, and what operators did."""
    lists = Suppressions(stores.pool, Clock())
    await lists.add(f"dennis.r@{DOMAIN}", "manual", "asked by phone", actor="page session 5f2c81aa")
    await lists.unsubscribe(UNSUBSCRIBED, "task-reminder")
    actions = (
        OperatorAction(now_ms - 7_200_000, "page session 5f2c81aa", "queue retry", "reason contains 'timeout'", 31),
        OperatorAction(now_ms - 3_600_000, "page session 9d0be6f1", "addresses revealed", "/dashboard/emails", 1),
        OperatorAction(now_ms - 1_800_000, "command line", "queue pause", "bull:email", 1),
        OperatorAction(now_ms - 1_740_000, "command line", "queue resume", "bull:email", 1),
    )
    for action in actions:
        await stores.redis.rpush(stores.keys.own("audit"), msgspec.json.encode(action))

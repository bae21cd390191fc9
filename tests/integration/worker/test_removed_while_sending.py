"""A job that an operator removes while its request is at the provider: the email was sent, and this is recorded."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.maintenance import LockRenewer
from tests.integration.worker.test_crash_points import settings
from tests.integration.worker.test_refusals_of_all_mails import enqueue
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import FakeResend, error

ByHand = Callable[[Redis, Keys, str], Awaitable[object]]


async def delete_all(redis: Redis, keys: Keys, job_id: str) -> None:
    await redis.lrem(keys("active"), 0, job_id)
    await redis.delete(keys.job(job_id), keys.lock(job_id))


async def delete_hash(redis: Redis, keys: Keys, job_id: str) -> None:
    await redis.delete(keys.job(job_id))


async def delete_lock(redis: Redis, keys: Keys, job_id: str) -> None:
    await redis.lrem(keys("active"), 0, job_id)
    await redis.delete(keys.lock(job_id))


async def clear_active(redis: Redis, keys: Keys, job_id: str) -> None:
    await redis.delete(keys("active"))


async def obliterate(redis: Redis, keys: Keys, job_id: str) -> None:
    names = [name async for name in redis.scan_iter(f"{keys.base}*")]
    await redis.delete(*(name for name in names if "flowstate:" not in name))


@pytest.mark.parametrize("by_hand", [delete_all, delete_hash, delete_lock, clear_active, obliterate])
@pytest.mark.parametrize("renewed", [False, True], ids=["before the renewal", "after the renewal"])
@pytest.mark.parametrize("count", [1, 3])
async def test_removed_job_whose_email_was_sent_is_recorded(
    valkey_url: str,
    keys: Keys,
    redis: Redis,
    connection: Connection,
    fake: FakeResend,
    by_hand: ByHand,
    renewed: bool,
    count: int,
) -> None:
    """The journal has the outcome, once, and the metric counts it; whatever was deleted, and noticed before or not."""
    fake.hold()
    jobs = await enqueue(connection, keys, *(f"person{number}@mail.dev" for number in range(count)))
    daemon = CrashingDaemon(settings(valkey_url, keys, fake))
    built = daemon.daemon.components
    renewer = next(service for service in built.worker._settling if isinstance(service, LockRenewer))  # type: ignore[union-attr]
    removed: list[str] = []

    async def all_settled() -> bool:
        if not removed and fake.memory.in_progress:
            removed.append(jobs[0])
            await by_hand(redis, keys, jobs[0])
            if renewed:
                await renewer.run_once()
            fake.release()
        return len(fake.accepted) == count and not len(built.worker.in_flight)

    await daemon.run_until(all_settled)
    entries = [json.loads(entry) for entry in await Journal(connection, keys).peek(100)]
    assert sorted(entry["job_id"] for entry in entries if entry["outcome"] == "sent") == sorted(jobs)
    assert {entry["to"] for entry in entries} == {f"person{number}@mail.dev" for number in range(count)}
    assert built.metrics.sent == count


async def test_removed_job_whose_email_was_not_sent_is_not_recorded(
    valkey_url: str, keys: Keys, redis: Redis, connection: Connection, fake: FakeResend
) -> None:
    """The provider fails: nothing records that the email was sent."""
    fake.script(error(503, "application_error"), times=None)
    fake.hold()
    [job_id] = await enqueue(connection, keys, "ada@mail.dev")
    daemon = CrashingDaemon(settings(valkey_url, keys, fake))
    built = daemon.daemon.components
    removed: list[str] = []

    async def settled() -> bool:
        if not removed and fake.requests["POST /emails"]:
            removed.append(job_id)
            await delete_lock(redis, keys, job_id)
            fake.release()
        return bool(removed) and not len(built.worker.in_flight)

    await daemon.run_until(settled)
    outcomes = [json.loads(entry)["outcome"] for entry in await Journal(connection, keys).peek(100)]
    assert "sent" not in outcomes

"""Ten thousand generated jobs with dirt anywhere, written raw to Redis and through npm bull: each of them ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys, is_valid_job_id
from tests.compat.conftest import driver, node_modules  # noqa: F401 - fixtures
from tests.compat.driver import Driver, NodeQueue
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.hostile_jobs import HostileJob, hostile_jobs
from tests.support.waiting import eventually

RAW, THROUGH_BULL = 7_000, 3_000
MAX_LINE = 20_000
MAX_REASON = 2_000
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # a newline ends a line


async def write_raw(redis: Redis, keys: Keys, jobs: Iterator[HostileJob]) -> int:
    """As a program in any language might; returns how many jobs there are."""
    pipe = redis.pipeline(transaction=False)
    written = 0
    for job in jobs:
        if not is_valid_job_id(job.job_id):
            continue
        mapping = {**job.fields, "name": job.name, "data": job.data, "opts": job.opts}
        pipe.hset(keys.job(job.job_id), mapping=mapping)
        pipe.lpush(keys("wait"), job.job_id)
        written += 1
    await pipe.execute()
    return written


async def add_through_bull(queue: NodeQueue, jobs: Iterator[HostileJob]) -> int:
    """As the backend would: what is not JSON cannot be added this way, and Bull checks no option."""
    bulk = []
    for job in jobs:
        try:
            data, opts = json.loads(job.data), json.loads(job.opts)
            attempts = opts.get("attempts", 1) if isinstance(opts, dict) else 1
            json.dumps([data, attempts], allow_nan=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(opts, dict):
            bulk.append({"name": job.name, "data": data, "opts": {"attempts": attempts}})
    await queue.add_bulk(bulk, within_s=60)
    return len(bulk)


@pytest.mark.node
@pytest.mark.timeout(300)
async def test_ten_thousand_hostile_jobs_end(
    make_daemon: MakeDaemon,
    provider: FakeResend,
    driver: Driver,  # noqa: F811
    valkey_url: str,
    connection: Connection,
    keys: Keys,
    redis: Redis,
) -> None:
    """None ends the daemon, each is settled, failures have readable reasons, and the log has no control characters."""
    queue = await driver.open(valkey_url, keys.prefix, keys.name)
    added = await write_raw(redis, keys, hostile_jobs(RAW, 1))
    added += await add_through_bull(queue, hostile_jobs(THROUGH_BULL, 2))
    await queue.close()
    assert added > 9_000
    async with make_daemon() as daemon:
        await daemon.ready(within_s=60)
        await enqueue(connection, keys, 1)

        async def all_ended() -> bool:
            assert daemon.process is not None
            assert daemon.process.returncode is None, daemon.log_text()[-3000:]
            together = redis.pipeline(transaction=True)  # a job may move while one key after the other is read
            for name in ("wait", "active", "paused"):
                together.llen(keys(name))
            together.zcard(keys("delayed"))
            return not any(await together.execute())

        await eventually(all_ended, "all jobs ended", within_s=200)
        assert (await daemon.look("/health/live"))[0] == 200
        assert any("person-0" in str(mail.to) for mail in provider.accepted)
    ended = {*await redis.zrange(keys("failed"), 0, -1), *await redis.zrange(keys("completed"), 0, -1)}
    failed = await redis.zrange(keys("failed"), 0, -1)
    assert len(failed) > added // 10
    for job_id in failed:
        reason = await redis.hget(keys.job(job_id), "failedReason")
        assert reason, job_id
        assert len(reason) <= MAX_REASON, (job_id, reason[:200])
        assert not CONTROL.search(reason), (job_id, reason)
    hashes = {name async for name in redis.scan_iter(keys("*"), count=10_000, _type="HASH")}
    jobs = {name.removeprefix(keys.base) for name in hashes if not name.startswith(keys.own(""))}
    assert jobs - {"meta"} == ended
    log = daemon.log_text()
    assert not CONTROL.search(log)
    assert all(line.startswith("{") and len(line) < MAX_LINE for line in log.splitlines())

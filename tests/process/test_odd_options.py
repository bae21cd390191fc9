"""Commands and daemon on a queue with ids, delays and options that no careful producer would write."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

KEY_NAMES = (
    "active",
    "paused",
    "delayed",
    "completed",
    "failed",
    "priority",
    "stalled",
    "meta-paused",
    "stalled-check",
)
OTHER_IDS = ("meta", "repeat", "limiter", "limiter:index", "de:x", "7:lock", "8:logs", "metrics:completed")
SCORES = ("+inf", "-inf", "4.096e24", "1.7e308")
NUMBERS = ("Infinity", "NaN", "1e21", "1" + "0" * 30)


def data_for(number: int) -> str:
    return json.dumps({"type": "welcome", "to": f"ada{number}@example.org", "context": {"name": "Ada"}})


async def command(url: str, keys: Keys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of one command."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flowstate_daemon",
        *arguments,
        env={
            "PATH": os.environ["PATH"],
            "REDIS_URL": url,
            "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
            "RESEND_FROM_EMAIL": "hello@flowstate.example",
            "FLOWSTATE_DELIVERY": "outbox",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode(), errors.decode()


async def test_job_ids_that_are_names_of_keys(
    make_daemon: MakeDaemon, provider: FakeResend, redis: Redis, keys: Keys
) -> None:
    """Every such job is sent under another id, the daemon stays, and a log event names both ids."""
    ids = [*KEY_NAMES, *OTHER_IDS]
    for number, job_id in enumerate(ids):
        fields = {"name": "welcome", "data": data_for(number), "opts": "{}", "timestamp": 1795000000000 + number}
        await redis.hset(keys.job(job_id), mapping=fields)
        await redis.lpush(keys("wait"), job_id)
    async with make_daemon() as daemon:
        await eventually(lambda: len(provider.accepted) == len(ids), "all emails")
        assert daemon.process is not None
        assert daemon.process.returncode is None
        renamed = {event["job_id"]: event["new_job_id"] for event in daemon.events("job_renamed")}
    assert renamed == {name: f"renamed-{name}-1" for name in KEY_NAMES}
    assert provider.duplicates() == []


async def test_job_with_the_id_of_the_wait_list(
    make_daemon: MakeDaemon, provider: FakeResend, redis: Redis, keys: Keys
) -> None:
    """No other job can be added until then; the daemon makes space, and later jobs are sent, too."""
    await redis.hset(keys.job("wait"), mapping={"name": "welcome", "data": data_for(1), "opts": "{}", "timestamp": 1})
    async with make_daemon() as daemon:
        await daemon.ready()
        await eventually(lambda: len(provider.accepted) == 1, "the email")
        await redis.hset(keys.job("x"), mapping={"name": "welcome", "data": data_for(2), "opts": "{}", "timestamp": 2})
        await redis.lpush(keys("wait"), "x")
        await eventually(lambda: len(provider.accepted) == 2, "the next email")


@pytest.mark.parametrize("as_json", [False, True])
async def test_commands_show_jobs_with_odd_numbers(valkey_url: str, redis: Redis, keys: Keys, as_json: bool) -> None:
    """`queue list`, `queue show` and `queue status` show each of them, as a table and as JSON."""
    ids = []
    for number, score in enumerate(SCORES):
        for option in NUMBERS:
            ids.append(f"{number}-{len(option)}")
            opts = f'{{"delay":{option},"attempts":{option},"priority":{option},"timestamp":{option}}}'
            fields = {"name": "welcome", "data": data_for(1), "opts": opts, "timestamp": option, "delay": option}
            await redis.hset(keys.job(ids[-1]), mapping=fields)
            await redis.zadd(keys("delayed"), {ids[-1]: score})
    options = ("--json",) if as_json else ()
    code, output, errors = await command(valkey_url, keys, "queue", "list", "delayed", *options)
    assert (code, errors.count("\n")) == (0, 1)  # which server was asked
    assert all(job_id in output for job_id in ids)
    for job_id in ids[:: len(NUMBERS) + 1]:
        code, output, errors = await command(valkey_url, keys, "queue", "show", job_id, *options)
        assert (code, errors.count("\n")) == (0, 1)
        assert "due at no possible time" in output
    code, output, errors = await command(valkey_url, keys, "queue", "status", *options)
    assert (code, errors.count("\n")) == (0, 1)


BULLMQ_KEYS = ["version", "events", "prioritized", "marker"]


async def write_like_bullmq(redis: Redis, keys: Keys, kind: str) -> None:
    match kind:
        case "version":
            await redis.hset(keys("meta"), mapping={"opts.maxLenEvents": 10000, "version": "bullmq:5.34.0"})
        case "events":
            await redis.xadd(keys("events"), {"event": "added", "jobId": "1", "name": "otp"})
        case "prioritized":
            await redis.hset(keys.job("1"), mapping={"name": "otp", "data": "{}", "opts": "{}", "timestamp": 1})
            await redis.zadd(keys("prioritized"), {"1": 4294967297})
        case _:
            await redis.zadd(keys("marker"), {"0": 0})


@pytest.mark.parametrize("kind", BULLMQ_KEYS)
async def test_bullmq_under_the_name_of_the_queue(
    make_daemon: MakeDaemon, valkey_url: str, redis: Redis, keys: Keys, kind: str
) -> None:
    """`check` fails, the log warns and ready is red, each with the remedy, whatever BullMQ has written so far."""
    await write_like_bullmq(redis, keys, kind)
    async with make_daemon() as daemon:

        async def red() -> bool:
            status, body = await daemon.look("/health/ready")
            return status == 503 and "BullMQ" in body and "npm bull" in body

        await eventually(red, "ready is red and says why")
        await eventually(lambda: daemon.events("bullmq_detected"), "the warning")
    code, output, _ = await command(valkey_url, keys, "check", "--json")
    results = [result for result in json.loads(output) if result["name"] == "bullmq"]
    assert code != 0
    assert results
    assert "npm bull" in results[0]["remedy"]


async def test_a_queue_of_bull_is_not_taken_for_bullmq(
    make_daemon: MakeDaemon, redis: Redis, keys: Keys, provider: FakeResend
) -> None:
    """Also when a job has the name of one of BullMQ's keys as its id."""
    for number, job_id in enumerate(("meta", "events", "prioritized", "marker")):
        fields = {"name": "welcome", "data": data_for(number), "opts": "{}", "timestamp": 1795000000000 + number}
        await redis.hset(keys.job(job_id), mapping=fields)
        await redis.lpush(keys("wait"), job_id)
    async with make_daemon() as daemon:
        await daemon.ready()
        await eventually(lambda: len(provider.accepted) == 4, "all emails")
        assert daemon.events("bullmq_detected") == []
        assert (await daemon.look("/health/ready"))[0] == 200

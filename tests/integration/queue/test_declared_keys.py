"""Which keys the scripts touch: those that they declare, and keys of single jobs, whose ids only the script knows.

Redis Cluster and some hosts refuse anything else: in a cluster every key must be in the slot of the declared ones.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.job import REMOVE, JobFailed, JobRetried, JobSucceeded, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import RESERVED, RESERVED_STARTS, Keys
from flowstate_daemon.redis_client.scripts import load_scripts
from flowstate_daemon.sending.request_store import RequestStore
from tests.integration.queue.stored_requests import template
from tests.support.clock import FakeClock

pytestmark = pytest.mark.flavours

MANY_KEYS = frozenset({"DEL", "UNLINK", "EXISTS", "MGET", "RENAME", "LMOVE", "RPOPLPUSH"})
WITHOUT_KEYS = frozenset({"PUBLISH", "TIME", "ECHO", "INFO"})
OF_JOBS = re.compile(r"(flowstate:request:.+|de:.+|limiter:.+)")  # named in a job's hash or by its id
SHAS = {script.sha: script.name for script in load_scripts().values()}

Session = Callable[[], Awaitable[None]]


@pytest.fixture
def session(connection: Connection, keys: Keys, clock: FakeClock, bull: BullQueue, rival: BullQueue) -> Session:
    """What workers, producers and operators do, in every variant that takes another way through a script."""
    operator = QueueAdmin(connection, keys, clock, token="op")
    inspector = Inspector(connection, keys)

    async def work() -> None:
        policies: dict[str, Any] = {"attempts": 3, "remove_on_complete": REMOVE, "debounce_id": "d"}
        await bull.add_many([NewJob("x", {}, priority=n % 3, delay_ms=n % 2, job_id=f"job{n}") for n in range(12)])
        await bull.add_many([NewJob("x", {}, **policies), NewJob("x", {}, **policies), NewJob("y", {}, lifo=True)])
        clock.advance(1)
        await bull.promote()
        jobs = await bull.claim(8)
        await RequestStore(connection, keys, clock, token="me/2").save(template(jobs[:3]))
        await bull.extend_locks([job.id for job in jobs])
        await bull.complete([JobSucceeded(job, journal=b"{}") for job in jobs[:2]])
        await bull.retry([JobRetried(job, "no", b"[]", delay) for job, delay in zip(jobs[2:4], (0, 5), strict=True)])
        await bull.fail([JobFailed(job, "no", b"[]", journal=b"{}") for job in jobs[4:6]])
        await bull.release(jobs[6:7])
        await bull.progress(jobs[7].id, 5)
        await bull.log(jobs[7].id, "row")
        await BullQueue(connection, keys, clock, token="me/3").recover_own_jobs([])
        await rival.claim(2)
        for _ in range(2):
            await connection.execute("DEL", keys("stalled-check"), *[keys.lock(f"job{n}") for n in range(12)])
            await bull.check_stalled(1, 1)
        await operator.pause()
        await operator.resume()
        await operator.retry_all()
        await operator.promote_all()
        await operator.clean("wait", -1, limit=1)
        await operator.remove("job0")
        await inspector.jobs("wait")
        await bull.find_jobs(["job1"])
        await bull.jobs_ahead(5)
        await bull.prune_failed(0, 0)

    return work


async def test_scripts_touch_declared_keys_and_those_of_jobs(session: Session, redis: Redis, keys: Keys) -> None:
    """All have the prefix of the queue, and so the slot of the declared ones; keys of the queue itself are declared."""
    declared: set[str] = set()
    script, seen, undeclared = "", set(), set()
    for known in load_scripts().values():
        await redis.script_load(known.text)  # so that they run by digest, which has no spaces
    async with redis.monitor() as monitor:
        await session()
        await redis.echo("end")
        while (command := await monitor.next_command())["command"] != "ECHO end":
            name, *args = command["command"].split(" ")
            if name == "EVALSHA":
                script, declared = SHAS[args[0]], set(args[2 : 2 + int(args[1])])
            elif command["client_type"] == "lua" and name.upper() not in WITHOUT_KEYS:
                seen.add(script)
                touched = args if name.upper() in MANY_KEYS else args[:1]
                undeclared |= {(script, key) for key in touched if key not in declared and key.startswith(keys.base)}
                assert all(key.startswith(keys.base) for key in touched[:1]), (script, command)
    assert len(seen) > 15, seen
    tails = {(script, key.removeprefix(keys.base)) for script, key in undeclared}
    of_queue = {
        (script, tail)
        for script, tail in tails
        if (tail in RESERVED or tail.startswith(RESERVED_STARTS)) and not OF_JOBS.fullmatch(tail)
    }
    assert not of_queue

"""Shadow mode beside npm bull's worker: it predicts and compares results, and changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue
from tests.compat.flowstate_mails import KINDS, all_nine, data
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

pytestmark = pytest.mark.node

HOUR_MS = 3_600_000
MakeShadow: TypeAlias = Callable[..., Daemon]


@pytest.fixture
async def provider() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
async def make_shadow(valkey_url: str, keys: Keys, provider: FakeResend, tmp_path: Path) -> AsyncIterator[MakeShadow]:
    """Makes shadows on the test's queue, which could send: they have a key."""
    made: list[Daemon] = []

    def make(**environment: str) -> Daemon:
        settings = {
            "REDIS_URL": valkey_url,
            "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
            "FLOWSTATE_MODE": "shadow",
            "RESEND_API_URL": provider.url,
            "RESEND_API_KEY": provider.api_key,
        }
        made.append(Daemon({**settings, **environment}, tmp_path))
        return made[-1]

    yield make
    for daemon in made:
        await daemon.kill()


async def compared(shadow: Daemon, count: int) -> dict[str, int]:
    """How many jobs came out the same, different or unseen, once that many have been compared."""
    found: dict[str, int] = {}

    async def all_of_them() -> bool:
        _, page = await shadow.look("/metrics")
        rows = re.findall(r'flowstate_shadow_comparisons_total\{.*result="(\w+)"\} (\d+)', page)
        found.clear()
        for result, number in rows:
            found[result] = found.get(result, 0) + int(number)
        return sum(found.values()) == count

    await eventually(all_of_them, f"{count} compared")
    return found


async def judged(shadow: Daemon, count: int) -> list[dict[str, Any]]:
    """The lines of that many jobs."""

    async def all_of_them() -> bool:
        return len(shadow.events("shadow_predicted")) >= count

    await eventually(all_of_them, f"{count} judged")
    return shadow.events("shadow_predicted")


async def everything(url: str, keys: Keys) -> dict[bytes, tuple[bytes, int]]:
    """All that the queue holds, byte for byte, and until when."""
    async with Redis.from_url(url, protocol=2) as raw:
        return {
            key: (await raw.dump(key), await raw.pexpiretime(key)) for key in sorted(await raw.keys(f"{keys.base}*"))
        }


async def test_the_nine_kinds_are_rendered_like_bulls(
    q: NodeQueue, make_shadow: MakeShadow, provider: FakeResend
) -> None:
    """Bull's worker processes every job as usual; the shadow renders each, and sends none."""
    shadow = make_shadow()
    async with shadow:
        await shadow.ready(within_s=60.0)
        await q.process(kind="return", ms=1_000, concurrency=9)
        ids = await q.add_bulk(all_nine())
        for job_id in ids:
            await q.wait_for_event("completed", job_id)
        assert await compared(shadow, 9) == {"same": 9, "different": 0, "unseen": 0}
        lines = await judged(shadow, 9)
    assert {line["kind"] for line in lines} == set(KINDS)
    assert {line["predicted"] for line in lines} == {"send"}
    assert all(line["html_bytes"] > 1_000 for line in lines)
    assert "482913" not in shadow.log_text()
    assert len(q.received("run")) == 9
    assert provider.accepted == []


async def test_differences_are_logged_with_both_reasons(q: NodeQueue, make_shadow: MakeShadow) -> None:
    """Bull sends an expired code and an email to an invalid address, and fails a valid one."""
    shadow = make_shadow()
    async with shadow:
        await shadow.ready(within_s=60.0)
        await q.add("otp", data("otp"), timestamp=Clock().now_ms() - HOUR_MS, removeOnComplete=True)
        await q.add("welcome", {**data("welcome"), "to": "nowhere"}, removeOnComplete=True)
        await q.add("overdue-summary", data("overdue-summary"), attempts=1)
        await judged(shadow, 3)
        for name, kind in (("otp", "return"), ("welcome", "return"), ("overdue-summary", "throw")):
            await q.process(name, kind=kind, message="Missing helper: formatDate")
        assert await compared(shadow, 3) == {"same": 0, "different": 3, "unseen": 0}
    output = {line["kind"]: line for line in shadow.events("shadow_mismatch")}
    assert {kind: (line["predicted"], line["observed"]) for kind, line in output.items()} == {
        "otp": ("expire", "sent"),
        "welcome": ("fail", "sent"),
        "overdue-summary": ("send", "failed"),
    }
    assert "valid for 10 min" in output["otp"]["reason"]
    assert "address" in output["welcome"]["reason"]
    assert output["overdue-summary"]["observed_reason"] == "Missing helper: formatDate"


async def test_a_job_is_predicted_once_however_often_it_is_tried(q: NodeQueue, make_shadow: MakeShadow) -> None:
    """A retry is not an end; the last failure is."""
    shadow = make_shadow()
    async with shadow:
        await shadow.ready(within_s=60.0)
        await q.process(kind="throw", ms=20, message="no")
        job_id = await q.add("welcome", data("welcome"), attempts=3, backoff=20)
        await q.wait_for_event("failed", job_id)
        assert await compared(shadow, 1) == {"same": 0, "different": 1, "unseen": 0}
        assert len(await judged(shadow, 1)) == 1
    assert len(q.received("run")) == 3


async def test_a_backlog_is_seen_and_no_trace_is_left(
    q: NodeQueue, make_shadow: MakeShadow, redis: Redis, keys: Keys, valkey_url: str
) -> None:
    """A user that may not write is enough, tries nothing that it may not, and the server holds what it held."""
    await q.add_bulk(all_nine())
    await q.add("welcome", data("welcome"), delay=HOUR_MS)
    rights = ("~" + keys.base + "*", "&" + keys.base + "*", "-@all", "+@read", "+@pubsub", "-publish", "+@connection")
    await redis.execute_command("ACL", "SETUSER", "onlooker", "on", ">word", *rights, "+eval", "+evalsha", "+info")
    await redis.execute_command("ACL", "LOG", "RESET")
    before = await everything(valkey_url, keys)
    shadow = make_shadow(REDIS_URL=valkey_url.replace("redis://", "redis://onlooker:word@"))
    async with shadow, redis.monitor() as monitor:
        await shadow.ready(within_s=60.0)
        assert len(await judged(shadow, 9)) == 9
        status, page = await shadow.look("/metrics")
        assert (status, 'flowstate_queue_jobs{state="wait"} 9.0' in page) == (200, True)
        seen = await received_so_far(redis, monitor)
    assert await everything(valkey_url, keys) == before
    found = await redis.execute_command("ACL", "LOG")
    assert found == [], str(found)
    await redis.execute_command("ACL", "DELUSER", "onlooker")
    flags = {name: await redis.execute_command("COMMAND", "INFO", name) for name in seen}
    assert {"evalsha", "hmget", "lrange", "psubscribe"} <= flags.keys()
    assert {name for name, (row,) in flags.items() if "write" in str(row) or name == "publish"} == set()


async def received_so_far(redis: Redis, monitor: Any) -> set[str]:
    """The names of all commands that the server has got, scripts' own included, up to now."""
    await redis.execute_command("ECHO", "that is all")
    names: set[str] = set()
    while True:
        command = (await monitor.next_command())["command"]
        if command == "ECHO that is all":
            return names
        names.add(command.split()[0].lower())


async def test_it_says_what_it_is(q: NodeQueue, make_shadow: MakeShadow, redis: Redis, keys: Keys) -> None:
    """Health says shadow, it is counted as no worker, takes no instance id, and stops on SIGTERM."""
    shadow = make_shadow()
    async with shadow:
        await shadow.ready(within_s=60.0)
        assert json.loads((await shadow.look("/health/ready"))[1])["mode"] == "shadow"
        assert await q.call("getWorkers") == []
        assert await redis.keys(f"{keys.base}flowstate:*") == []
        shadow.send(15)
        assert await shadow.ended() == 0
    assert shadow.events("shadow_summary")[0]["same"] == 0


async def test_a_shadow_that_lost_redis_looks_again(make_shadow: MakeShadow, redis: Redis, keys: Keys) -> None:
    """Jobs whose events were missed are found in the queue."""
    shadow = make_shadow()
    async with shadow:
        await shadow.ready(within_s=60.0)
        job = {"name": "welcome", "data": json.dumps(data("welcome")), "opts": "{}", "timestamp": 1}
        await redis.hset(keys.job("never-announced"), mapping=job)
        await redis.lpush(keys("wait"), "never-announced")
        for client in await redis.client_list():
            if "flowstate-daemon-shadow" in client["name"]:
                await redis.client_kill_filter(_id=client["id"])
        assert [line["job_id"] for line in await judged(shadow, 1)] == ["never-announced"]

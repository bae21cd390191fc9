"""Waiting for conditions with a deadline, and reading jobs: tests wait for what they claim, never for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys

T = TypeVar("T")

WITHIN_S = 20.0
POLL_INTERVAL_S = 0.01


async def eventually(
    read: Callable[[], Awaitable[T] | T], what: str = "", *, equals: Any = None, within_s: float = WITHIN_S
) -> T:
    """Call or await `read` until its result is true, or equals `equals`, and return it. Fails after `within_s`."""
    last: Any = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                last = read()
                last = await last if isawaitable(last) else last
                if last == equals if equals is not None else last:
                    return last  # type: ignore[no-any-return]
                await asyncio.sleep(POLL_INTERVAL_S)
    except TimeoutError:
        wanted = "" if equals is None else f", wanted: {equals!r}"
        raise AssertionError(f"not within {within_s} s: {what} (last result: {last!r}{wanted})") from None


async def clock_passed(redis: Redis, instant_ms: int) -> None:
    """Wait until the clock of the Redis server is past a time."""

    async def is_past() -> bool:
        seconds, micros = await redis.time()
        return bool(seconds * 1000 + micros // 1000 > instant_ms)

    await eventually(is_past, "the clock of Redis is past that time")


async def hash_of(redis: Redis, keys: Keys, job_id: str) -> dict[str, str]:
    """All fields of a job's hash."""
    fields = await redis.hgetall(keys.job(job_id))
    return {str(name): str(value) for name, value in fields.items()}


async def number(redis: Redis, keys: Keys, job_id: str, field: str) -> int:
    """A field of a job's hash that must be present and an integer."""
    return int((await hash_of(redis, keys, job_id))[field])

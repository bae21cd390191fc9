"""Waiting for conditions, with a deadline, and looking at jobs: tests wait for what they claim, not for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys

T = TypeVar("T")

WITHIN_S = 10.0
LOOK_S = 0.02


async def eventually(look: Callable[[], Awaitable[T]], wanted: Any = None, *, within_s: float = WITHIN_S) -> T:
    """Look until the answer is true (or equals `wanted`); fail with the last answer after `within_s`."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        found = await look()
        if (found == wanted) if wanted is not None else found:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {within_s} s; last seen: {found!r}, wanted: {wanted!r}")
        await asyncio.sleep(LOOK_S)


async def passed(redis: Redis, instant_ms: int) -> None:
    """Wait until the wall clock has left an instant behind."""

    async def look() -> bool:
        seconds, micros = await redis.time()
        return bool(seconds * 1000 + micros // 1000 > instant_ms)

    await eventually(look)


async def hash_of(redis: Redis, keys: Keys, job_id: str) -> dict[str, str]:
    """All fields of a job's hash."""
    fields = await redis.hgetall(keys.job(job_id))
    return {str(name): str(value) for name, value in fields.items()}


async def number(redis: Redis, keys: Keys, job_id: str, field: str) -> int:
    """One field of a job's hash that must be there and be a whole number."""
    return int((await hash_of(redis, keys, job_id))[field])

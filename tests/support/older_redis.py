"""Puts the keys of a queue back to an older state: what a Redis has that has lost its newest writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys


@dataclass(frozen=True)
class OlderState:
    """All keys of a queue at one time, as DUMP returns them, with their remaining time to live in ms."""

    keys: Keys
    dumps: Sequence[tuple[str, bytes, int]]


async def remember_state(url: str, keys: Keys) -> OlderState:
    """The present state of the queue."""
    client = Redis.from_url(url, protocol=2)
    try:
        names = [name.decode() async for name in client.scan_iter(f"{keys.base}*")]
        found = [(name, await client.dump(name), await client.pttl(name)) for name in names]
        return OlderState(keys, [(name, dump, ttl) for name, dump, ttl in found if dump is not None])
    finally:
        await client.aclose()


async def lose_writes(url: str, state: OlderState) -> None:
    """Put every key back to that state, and delete those that did not exist then."""
    client = Redis.from_url(url, protocol=2)
    try:
        names = [name async for name in client.scan_iter(f"{state.keys.base}*")]
        transaction = client.pipeline(transaction=True)
        if names:
            transaction.delete(*names)
        for name, dump, ttl in state.dumps:
            transaction.restore(name, max(ttl, 0), dump)
        await transaction.execute()
    finally:
        await client.aclose()

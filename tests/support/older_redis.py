"""Puts the keys of a queue back to an older state: what a Redis has that has lost its newest writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys

READ = """
local found = {}
for _, name in ipairs(redis.call("KEYS", ARGV[1])) do
  found[#found + 1] = {name, redis.call("DUMP", name), redis.call("PTTL", name)}
end
return found
"""
RESTORE = """
for _, name in ipairs(redis.call("KEYS", ARGV[1])) do
  redis.call("DEL", name)
end
for position = 2, #ARGV, 3 do
  redis.call("RESTORE", ARGV[position], math.max(tonumber(ARGV[position + 2]), 0), ARGV[position + 1])
end
"""


@dataclass(frozen=True)
class OlderState:
    """All keys of a queue at one time, as DUMP returns them, with their remaining time to live in ms."""

    keys: Keys
    dumps: Sequence[tuple[str, bytes, int]]


async def remember_state(url: str, keys: Keys) -> OlderState:
    """The present state of the queue, read in one step."""
    client = Redis.from_url(url, protocol=2)
    try:
        found = await client.eval(READ, 0, f"{keys.base}*")
        return OlderState(keys, [(name.decode(), dump, ttl) for name, dump, ttl in found])
    finally:
        await client.aclose()


async def lose_writes(url: str, state: OlderState) -> None:
    """Put every key back to that state, and delete those that did not exist then, in one step."""
    client = Redis.from_url(url, protocol=2)
    try:
        values = [value for row in state.dumps for value in row]
        await client.eval(RESTORE, 0, f"{state.keys.base}*", *values)
    finally:
        await client.aclose()


async def lose_connections(url: str, keys: Keys) -> None:
    """Close the connections of the queue's workers, as a failover does."""
    client = Redis.from_url(url, protocol=2)
    try:
        for found in await client.client_list():
            if keys.client_name in found["name"]:
                await client.client_kill_filter(_id=found["id"])
    finally:
        await client.aclose()

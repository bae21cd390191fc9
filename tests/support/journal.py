"""The outcome journal on a real server, reduced to what the ledger writer asks of it."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

# Drops entries as long as they are the head, one after the other.
DROP = """
local dropped = 0
for _, entry in ipairs(ARGV) do
    if redis.call('LINDEX', KEYS[1], 0) == entry then
        redis.call('LPOP', KEYS[1])
        dropped = dropped + 1
    end
end
return dropped
"""


class ListJournal:
    """Entries in a list, oldest first."""

    def __init__(self, url: str, key: str) -> None:
        self._redis = Redis.from_url(url, protocol=2)
        self._key = key
        self.peeked = 0

    async def append(self, entries: Sequence[bytes]) -> None:
        await self._redis.rpush(self._key, *entries)

    async def peek(self, count: int) -> list[bytes]:
        self.peeked += 1
        return list(await self._redis.lrange(self._key, 0, count - 1))

    async def drop(self, entries: Sequence[bytes]) -> int:
        return int(await self._redis.eval(DROP, 1, self._key, *entries))

    async def length(self) -> int:
        return int(await self._redis.llen(self._key))

    async def close(self) -> None:
        await self._redis.aclose()

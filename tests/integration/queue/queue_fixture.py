"""A queue for tests of single transitions: put jobs into any state, then compare what a call has changed."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys

BORN = 1_772_000_000_000
ZSETS = ("delayed", "completed", "failed")


class QueueFixture:
    """The keys of one queue. `diff()` compares all of them with the last `snapshot()`."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self._before: dict[str, Any] = {}

    async def put(
        self, job_id: str, state: str, *, at: int = BORN, priority: int = 0, locked: bool = False, **fields: str | int
    ) -> None:
        """A job at the running end of a list, or in a zset with score `at`, with a log and whatever belongs to it."""
        known = {"name": "welcome", "data": "{}", "opts": "{}", "timestamp": at, "delay": 0, "priority": priority}
        await self.redis.hset(self.keys.job(job_id), mapping={**known, **fields})
        await self.redis.rpush(self.keys.logs(job_id), "a", "b")
        if state in ZSETS:
            await self.redis.zadd(self.keys(state), {job_id: at * 4096 if state == "delayed" else at})
        else:
            await self.redis.lpush(self.keys(state), job_id)
        if priority and state in ("wait", "paused"):
            await self.redis.zadd(self.keys("priority"), {job_id: priority})
        if locked:
            await self.redis.set(self.keys.lock(job_id), "another/1", px=30_000)

    async def make_foreign(self, job_id: str, what: str) -> None:
        """Take a claimed job from its worker: its lock, the job, or only what makes it the same one."""
        job, lock = self.keys.job(job_id), self.keys.lock(job_id)
        match what:
            case "lost":
                await self.redis.delete(lock)
            case "taken":
                await self.redis.set(lock, "you/1")
            case "gone":
                await self.redis.delete(job)
            case "other":
                await self.redis.hset(job, "timestamp", BORN + 5)
            case "text":
                await self.redis.delete(job)
                await self.redis.set(job, "x")
            case _:
                raise ValueError(what)

    async def dump(self) -> dict[str, Any]:
        """All keys of the queue, by their names after the prefix."""
        names = sorted([name async for name in self.redis.scan_iter(f"{self.keys.base}*", count=100_000)])
        return {name.removeprefix(self.keys.base): await self._value(name) for name in names}

    async def snapshot(self) -> None:
        self._before = await self.dump()

    async def diff(self) -> dict[str, Any]:
        """What is different now: the new value of each key changed, None for those gone."""
        after = await self.dump()
        names = self._before.keys() | after.keys()
        return {name: after.get(name) for name in names if self._before.get(name) != after.get(name)}

    async def received(self) -> PublishedEvents:
        """Listen to all channels of the queue from now on."""
        received = PublishedEvents(self.redis, self.keys)
        await received.listen()
        return received

    async def _value(self, name: str) -> Any:
        match await self.redis.type(name):
            case "hash":
                return await self.redis.hgetall(name)
            case "list":
                return await self.redis.lrange(name, 0, -1)
            case "zset":
                return dict(await self.redis.zrange(name, 0, -1, withscores=True))
            case "set":
                return await self.redis.smembers(name)
            case _:
                return await self.redis.get(name)


class PublishedEvents:
    """The events published on the channels of the queue, in order."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._pubsub = redis.pubsub()

    async def listen(self) -> None:
        await self._pubsub.psubscribe(f"{self._keys.base}*")
        await self._pubsub.get_message(timeout=5)

    async def events(self) -> list[tuple[str, str]]:
        """All events up to now, channel and payload; ends the listening."""
        await self._redis.publish(self._keys("end"), "")
        found: list[tuple[str, str]] = []
        while message := await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=5):
            channel = message["channel"].removeprefix(self._keys.base)
            if channel == "end":
                break
            found.append((channel, message["data"]))
        await self._pubsub.aclose()
        return found

"""The arithmetic of the shared rate limit, run by the Lua of the server with a simulated clock."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from importlib.resources import files
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

RATE_LIMIT = (files("flowstate_daemon.sending") / "lua" / "includes" / "rate_limit.lua").read_text()
HARNESS = """
local s = cjson.decode(ARGV[1])
local verb, now = ARGV[2], tonumber(ARGV[3])
local a, b, c = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local wait = 0
if verb == "ask" then
  wait = try_acquire(s, now, a == 1, b)
elseif verb == "hear" then
  update_limit(s, now, a, b, c)
else
  back_off(s, now, a)
end
cjson.encode_number_precision(14)
return {math.ceil(wait), cjson.encode(s)}
"""
FIELDS = ("limit", "next", "hold", "slowdown", "slowed_at", "urgent", "bucket", "starts", "before")
MS = 1000
S = 1_000_000


class Rhythm:
    """The shared state, and what a script would do to it at a given microsecond."""

    def __init__(self, redis: Redis, **state: float) -> None:
        self._redis = redis
        self.state = dict.fromkeys(FIELDS, 0.0) | state
        self._sha = ""

    async def _call(self, verb: str, now: float, *args: float) -> int:
        self._sha = self._sha or await self._redis.script_load(RATE_LIMIT + HARNESS)
        call: Any = self._redis.evalsha(self._sha, 0, json.dumps(self.state), verb, str(now), *map(str, args))
        wait, state = await call
        self.state = json.loads(state)
        return int(wait)

    async def ask(self, now: float, *, urgent: bool = False, pause: int = 0) -> int:
        return await self._call("ask", now, int(urgent), pause)

    async def receive(self, now: float, limit: int, remaining: int, reset: int = S) -> None:
        await self._call("hear", now, limit, remaining, reset)

    async def slow_down(self, now: float, after: int) -> None:
        await self._call("slow", now, after)


async def run_daemons(rhythm: Rhythm, *, seconds: int, daemons: int, random: Random) -> list[float]:
    """That many daemons with endless bulk, each as late as an event loop is; returns when requests arrived."""
    asks = [(random.uniform(0, 5 * MS), number) for number in range(daemons)]
    arrivals = []
    while asks[0][0] < seconds * S:
        now, number = heapq.heappop(asks)
        wait = await rhythm.ask(now)
        if wait == 0:
            arrivals.append(now + 20 * MS + random.uniform(0, 15 * MS))
            wait = 300
        heapq.heappush(asks, (now + wait + random.uniform(0.1 * MS, 3 * MS), number))
    return arrivals


def overruns(arrivals: list[float], limit: int, phase: float) -> int:
    """How many requests a provider rejects whose one-second intervals begin at `phase`."""
    windows = Counter(int((at - phase) // S) for at in arrivals)
    return sum(max(0, count - limit) for count in windows.values())


@pytest.mark.parametrize("limit", [2, 10])
@pytest.mark.parametrize("daemons", [1, 3])
async def test_the_rate_is_shared_and_used(redis: Redis, limit: int, daemons: int) -> None:
    """Bulk alone gets over 90 % of the rate, never more than 5 % above it, wherever the provider's windows begin."""
    rhythm = Rhythm(redis, limit=limit)
    seconds = 60
    arrivals = await run_daemons(rhythm, seconds=seconds, daemons=daemons, random=Random(7))
    used = len(arrivals) / (limit * seconds)
    refused = max(overruns(arrivals, limit, phase) for phase in range(0, S, 10 * MS))
    print(f"{daemons} daemons at {limit}/s: {used:.1%} used, at most {refused} of {len(arrivals)} refused")
    assert 0.9 <= used <= 1.0
    assert refused <= len(arrivals) / 100


async def test_many_more_than_allowed_ask(redis: Redis) -> None:
    """Thirty daemons keep the same rate as one, each getting a part of it."""
    arrivals = await run_daemons(Rhythm(redis, limit=10), seconds=20, daemons=30, random=Random(1))
    assert 0.9 <= len(arrivals) / 200 <= 1.0


async def test_the_urgent_own_the_next_start(redis: Redis) -> None:
    """An urgent request that had to wait gets the next token, though bulk asks before it; then bulk continues."""
    rhythm = Rhythm(redis, limit=2)
    assert await rhythm.ask(0) == 0
    assert await rhythm.ask(100 * MS, urgent=True) == 425 * MS
    assert await rhythm.ask(525 * MS) == 50 * MS
    assert await rhythm.ask(526 * MS, urgent=True) == 0
    assert await rhythm.ask(527 * MS) == 523 * MS
    assert await rhythm.ask(1050 * MS) == 0


async def test_several_urgent_ones(redis: Redis) -> None:
    """As long as urgent requests wait, bulk gets nothing."""
    rhythm = Rhythm(redis, limit=2)
    await rhythm.ask(0)
    assert await rhythm.ask(1, urgent=True) > 0
    assert await rhythm.ask(2, urgent=True) > 0
    assert await rhythm.ask(525 * MS, urgent=True) == 0
    assert await rhythm.ask(526 * MS, urgent=True) > 0
    assert await rhythm.ask(1050 * MS) > 0
    assert await rhythm.ask(1051 * MS, urgent=True) == 0


async def test_an_urgent_one_that_never_comes(redis: Redis) -> None:
    """The daemon that waited has died: bulk loses the time of grace, once."""
    rhythm = Rhythm(redis, limit=2)
    await rhythm.ask(0)
    await rhythm.ask(1, urgent=True)
    assert await rhythm.ask(525 * MS) == 50 * MS
    assert await rhythm.ask(575 * MS) == 0
    assert await rhythm.ask(1085 * MS) == 0


async def test_an_idle_provider_is_free_at_once(redis: Redis) -> None:
    """After a rest the first start is free and nothing was saved up for a burst."""
    rhythm = Rhythm(redis, limit=10)
    assert await rhythm.ask(100 * S) == 0
    assert await rhythm.ask(200 * S) == 0
    assert await rhythm.ask(200 * S + 1) > 80 * MS


async def test_bulk_pauses_alone(redis: Redis) -> None:
    """During a pause of bulk the urgent go on, at the rate."""
    rhythm = Rhythm(redis, limit=2)
    assert await rhythm.ask(0, pause=7 * S) == 7 * S
    assert await rhythm.ask(0, urgent=True, pause=7 * S) == 0
    assert await rhythm.ask(1, urgent=True, pause=7 * S) > 500 * MS


async def test_a_refusal_stops_all_and_slows_down(redis: Redis) -> None:
    """A 429 holds everybody for its time; many at once count as one; ten seconds later the speed is back."""
    rhythm = Rhythm(redis, limit=10)
    for now in range(5):
        await rhythm.slow_down(9 * S + now, S)
    assert await rhythm.ask(9 * S + 10, urgent=True) == S + 4 - 10
    assert await rhythm.ask(10 * S + 4, urgent=True) == 0
    assert await rhythm.ask(10 * S + 5) == pytest.approx(105 * MS * 1.09 - 15 * MS, rel=0.001)
    assert await rhythm.ask(20 * S) == 0
    assert await rhythm.ask(20 * S + 1) == pytest.approx(90 * MS, rel=0.001)


async def test_refusals_that_go_on(redis: Redis) -> None:
    """When others eat up the account's rate we become slower and slower, but not slower than a quarter."""
    rhythm = Rhythm(redis, limit=10)
    for now in range(0, 60 * S, 2 * S):
        await rhythm.slow_down(now, 0)
    assert rhythm.state["slowdown"] == 4


async def test_a_wild_retry_after(redis: Redis) -> None:
    """Requests are blocked for at most five minutes, whatever a header says."""
    rhythm = Rhythm(redis, limit=10)
    await rhythm.slow_down(0, 86_400 * S)
    assert await rhythm.ask(0) == 300 * S


async def test_limits_that_change(redis: Redis) -> None:
    """A raised limit is used at once, a lowered one from the next start on."""
    rhythm = Rhythm(redis, limit=1)
    await rhythm.ask(0)
    await rhythm.receive(1, 10, 9)
    assert await rhythm.ask(2) == 105 * MS
    await rhythm.receive(3, 2, 1)
    await rhythm.ask(2 + 105 * MS)
    assert await rhythm.ask(3 + 105 * MS) == pytest.approx(525 * MS, abs=2)


async def test_what_remains(redis: Redis) -> None:
    """An empty window that our own starts explain changes nothing; one that they do not explain is waited out."""
    rhythm = Rhythm(redis, limit=2)
    await rhythm.ask(10 * S)
    await rhythm.ask(10 * S + 525 * MS)
    await rhythm.receive(10 * S + 600 * MS, 2, 0)
    assert rhythm.state["hold"] == 0
    await rhythm.ask(60 * S)
    await rhythm.receive(60 * S + 50 * MS, 2, 0)
    assert await rhythm.ask(60 * S + 525 * MS) == 525 * MS
    assert await rhythm.ask(61 * S + 50 * MS) == 0


@pytest.mark.parametrize("urgent", [True, False])
async def test_a_clock_that_is_set_back(redis: Redis, urgent: bool) -> None:
    """When the server's clock loses an hour, the rhythm goes on within one space."""
    rhythm = Rhythm(redis, limit=2)
    await rhythm.ask(3600 * S)
    await rhythm.slow_down(3600 * S + 2, S)
    await rhythm.ask(3602 * S)
    await rhythm.ask(3602 * S + 1, urgent=True)
    wait = await rhythm.ask(5 * S, urgent=urgent)
    assert 0 < wait < 600 * MS
    assert await rhythm.ask(5 * S + wait, urgent=urgent) == 0

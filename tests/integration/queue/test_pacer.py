"""The pacer on a real server: what it writes, what it hears, what several daemons do to each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.pacer import LOOK_AGAIN_S, Pacer, PacerState
from tests.integration.queue.stage import Stage
from tests.support.clock import HandClock


@dataclass
class Rate:
    limit: float
    remaining: float
    reset_s: float = 1.0


@pytest.fixture
def pacer(connection: Connection, keys: Keys, clock: HandClock) -> Pacer:
    return Pacer(connection, keys, clock)


@pytest.fixture
def other(connection: Connection, keys: Keys, clock: HandClock) -> Pacer:
    """The same in another daemon."""
    return Pacer(connection, keys, clock)


async def commands(stage: Stage) -> int:
    stats = await stage.redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


async def test_without_a_limit(stage: Stage, pacer: Pacer, clock: HandClock) -> None:
    """Any number may start, nothing is written, and Redis is asked once a second."""
    await pacer.slot()
    before = await commands(stage)
    assert {await pacer.slot(urgent=bool(number % 2)) for number in range(100)} == {0.0}
    assert await commands(stage) == before
    clock.advance(LOOK_AGAIN_S)
    assert await pacer.slot() == 0.0
    assert await commands(stage) > before
    assert await stage.everything() == {}
    assert not pacer.limited
    assert not pacer.heard
    await pacer.learn(None)
    assert pacer.heard


async def test_a_limit_is_learnt_for_all(stage: Stage, pacer: Pacer, other: Pacer, clock: HandClock) -> None:
    """What one daemon learns holds for the others within a second, and is forgotten after a day without news."""
    await other.slot()
    await pacer.learn(Rate(2, 1))
    assert (pacer.limited, pacer.heard) == (True, True)
    assert await pacer.slot() == 0.0
    assert 0.4 < await pacer.slot() <= 0.525
    clock.advance(LOOK_AGAIN_S)
    assert 0.3 < await other.slot() <= 0.525
    assert other.limited
    assert list(await stage.everything()) == ["flowstate:pace"]
    assert 86_000_000 < await stage.redis.pttl(stage.keys.ours("pace")) <= 86_400_000


async def test_only_news_is_written(stage: Stage, pacer: Pacer) -> None:
    """Answers that say the same again cost nothing; an empty window, which may be others' doing, is passed on."""
    await pacer.learn(Rate(10, 9))
    before = await commands(stage)
    await pacer.learn(Rate(10, 5))
    await pacer.learn(None)
    await pacer.learn(Rate(0, 0))
    assert await commands(stage) == before
    await pacer.learn(Rate(10, 0))
    assert await commands(stage) == before + 1
    assert (await pacer.state()).resting_ms > 0


async def test_an_assumed_rate(stage: Stage, connection: Connection, keys: Keys, clock: HandClock) -> None:
    """It holds until the provider tells its own, and is not told to the others as the provider's word."""
    pacer = Pacer(connection, keys, clock, assumed_rate=0.5)
    assert (pacer.limited, pacer.heard) == (True, True)
    assert await pacer.slot() == 0.0
    assert 2.0 < await pacer.slot() <= 2.1
    assert "limit" not in (await stage.everything())["flowstate:pace"]
    assert await stage.redis.pttl(stage.keys.ours("pace")) > 0
    await pacer.learn(Rate(10, 9))
    assert 0 < await pacer.slot() <= 0.105


async def test_a_refusal_holds_all(pacer: Pacer, other: Pacer, clock: HandClock) -> None:
    """After a 429 nobody starts, urgent or not, with or without a limit; who was told at once, others in a second."""
    await other.slot()
    await pacer.slow(3_000)
    assert 2.5 < await pacer.slot(urgent=True) <= 3.0
    clock.advance(LOOK_AGAIN_S)
    assert 2.5 < await other.slot() <= 3.0
    assert not pacer.limited
    await pacer.slow(60_000)
    assert await pacer.slot() == 5.0


async def test_bulk_is_paused_and_let_go(stage: Stage, pacer: Pacer, other: Pacer, clock: HandClock) -> None:
    """The pause stops bulk everywhere, tells why, lets urgent mails pass, and ends by a word or by itself."""
    await pacer.pause_bulk(clock.now_ms() + 60_000, "quota")
    assert pacer.bulk_paused
    assert await pacer.slot() == 5.0
    assert await pacer.slot(urgent=True) == 0.0
    assert await pacer.slot(urgent=True) == 0.0
    assert await other.slot() == 5.0
    assert other.bulk_paused
    assert (await stage.everything()) == {"flowstate:bulk-paused": "quota"}
    state = await other.state()
    assert (state.reason, 59_000 < state.bulk_paused_ms <= 60_000) == ("quota", True)
    await other.pause_bulk(0, "")
    assert not other.bulk_paused
    assert await pacer.slot() == 0.0
    assert not pacer.bulk_paused
    await pacer.pause_bulk(clock.now_ms() + 1_000, "quota")
    clock.advance(1)
    assert not pacer.bulk_paused


async def test_what_windows_show(pacer: Pacer) -> None:
    """Limit, slowing, rest and recent starts are told; of an empty Redis as well."""
    assert await pacer.state() == PacerState(None, 1.0, 0, 0, "", 0)
    await pacer.learn(Rate(10, 9))
    await pacer.slot()
    await pacer.slow(1_000)
    state = await pacer.state()
    assert (state.limit, state.recent) == (10.0, 1)
    assert 1.09 < state.stretch <= 1.1
    assert 900 < state.resting_ms <= 1_000


async def test_a_closed_lane_is_told_to_everybody(pacer: Pacer, other: Pacer) -> None:
    """Why, until it is open again."""
    await pacer.tell_lane("the key is invalid")
    assert (await other.state()).lane_closed == "the key is invalid"
    await other.tell_lane(None)
    assert (await pacer.state()).lane_closed == ""


async def test_a_wish_to_try_reaches_every_daemon_once(pacer: Pacer, other: Pacer, clock: HandClock) -> None:
    """And bulk that waits for a quota goes on."""
    assert not await pacer.asked_to_try()
    await pacer.pause_bulk(clock.now_ms() + 60_000, "quota")
    await Pacer(pacer._connection, Keys("other"), clock).ask_to_try()
    assert not await pacer.asked_to_try()
    await other.ask_to_try()
    assert (await pacer.state()).bulk_paused_ms == 0
    assert [await pacer.asked_to_try() for _ in range(2)] == [True, False]
    assert await other.asked_to_try()
    await other.ask_to_try()
    assert await pacer.asked_to_try()


async def test_two_connections_share_one_rate(valkey_url: str, connection: Connection, keys: Keys) -> None:
    """Four daemons race for two seconds: together they keep the rate, and the urgent one is not late."""
    second = Connection(valkey_url, client_name="second")
    clock = Clock()
    daemons = [Pacer(one, keys, clock, assumed_rate=20.0) for one in (connection, second, connection, second)]
    began, starts, waits = clock.mono(), [0], [0.0]

    async def bulk(pacer: Pacer) -> None:
        while clock.mono() < began + 2:
            wait = await pacer.slot()
            starts[0] += not wait
            await asyncio.sleep(wait)

    async def urgent(pacer: Pacer) -> None:
        while clock.mono() < began + 2:
            asked = clock.mono()
            while wait := await pacer.slot(urgent=True):
                await asyncio.sleep(wait)
            waits.append(clock.mono() - asked)
            starts[0] += 1
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        for pacer in daemons[1:]:
            group.create_task(bulk(pacer))
        group.create_task(urgent(daemons[0]))
    await second.close()
    print(f"{starts[0]} starts in 2 s at 20/s; longest wait of an urgent one {max(waits) * 1000:.0f} ms")
    assert 32 <= starts[0] <= 40
    assert max(waits) < 0.15

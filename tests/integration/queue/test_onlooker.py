"""Looking on: what is heard, what is read, and that nothing moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.job import Failed, Finished, NewJob
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.onlooker import Onlooker, Sign
from tests.integration.queue.stage import Stage
from tests.support.proxy import FaultProxy


@pytest.fixture
async def onlooker(elsewhere: Connection, keys: Keys) -> AsyncIterator[Onlooker]:
    onlooker = Onlooker(elsewhere, keys, max_data_bytes=1_000)
    yield onlooker
    await onlooker.close()


async def test_a_jobs_way_is_heard(onlooker: Onlooker, bull: Bull) -> None:
    """Added, taken, ended: with the result's JSON or the reason."""
    await onlooker.listen()
    for name in ("welcome", "otp"):
        await bull.add(NewJob(name, {}))
    first, second = await bull.take(2)
    await bull.finish([Finished(first, b'{"id":"re_1"}')])
    await bull.fail([Failed(second, "no such address", b"[]")])
    heard: list[Sign] = []
    while len(heard) < 6:
        heard += await onlooker.signs(5.0)
    assert heard == [
        Sign("waiting", "1"),
        Sign("waiting", "2"),
        Sign("active", "1"),
        Sign("active", "2"),
        Sign("completed", "1", '{"id":"re_1"}'),
        Sign("failed", "2", "no such address"),
    ]
    assert await onlooker.signs(0.01) == []


async def test_a_glance_is_what_a_claim_would_give(onlooker: Onlooker, bull: Bull, stage: Stage) -> None:
    """The same jobs, data that is too long included; ids that name nothing are left out, and nothing has moved."""
    await bull.add(NewJob("welcome", {"to": "ada@example.org"}, priority=5, attempts=3))
    await bull.add(NewJob("welcome", {"to": "x" * 2_000}))
    await stage.remember()
    seen = await onlooker.glance(["1", "2", "3", "wait", "2:lock"])
    assert await stage.changes() == {}
    assert "more than the 1000" in (seen["2"].problem or "")
    claimed = {job.id: job for job in await bull.take(2)}
    assert seen.keys() == claimed.keys()
    assert seen["1"] == claimed["1"]


async def test_who_stands_there_is_told_in_the_order_of_their_turn(onlooker: Onlooker, stage: Stage) -> None:
    """Those in hand first, then the next to run, not more than asked for."""
    for job_id, state in (("1", "active"), ("2", "wait"), ("3", "wait"), ("4", "wait"), ("5", "paused")):
        await stage.put(job_id, state)
    await stage.put("6", "delayed")
    assert await onlooker.standing(2) == ["1", "2", "3", "5"]


async def test_a_lost_connection_is_noticed(onlooker: Onlooker, bull: Bull, connection: Connection) -> None:
    """Something may have been missed: whoever listens again must look around, too."""
    await onlooker.listen()
    onlooker.deaf = False
    await connection.call("CLIENT", "KILL", "TYPE", "pubsub")
    while not onlooker.deaf:
        with suppress(Outage):
            await onlooker.signs(5.0)
        if not onlooker.listening:
            await onlooker.listen()
    await bull.add(NewJob("welcome", {}))
    assert await onlooker.signs(5.0) == [Sign("waiting", "1")]


async def nothing(onlooker: Onlooker) -> int:
    """How often nothing was heard."""
    return [await onlooker.signs(0.5) for _ in range(4)].count([])


async def test_a_connection_that_fell_silent_is_noticed(valkey_url: str, keys: Keys, bull: Bull) -> None:
    """A network that forgets a connection tells nobody; a queue where nothing happens looks the same, but answers."""
    where = urlsplit(valkey_url)
    async with FaultProxy(where.hostname or "", where.port or 0) as proxy:
        connection = Connection(f"redis://127.0.0.1:{proxy.port}", client_name="behind")
        onlooker = Onlooker(connection, keys, max_data_bytes=1_000)
        await onlooker.listen()
        assert await nothing(onlooker) == 4
        proxy.freeze()
        await bull.add(NewJob("welcome", {}))
        with pytest.raises(Outage, match="the connection that listens is dead"):
            await nothing(onlooker)
        proxy.thaw()
        await onlooker.listen()
        assert onlooker.deaf
        await onlooker.close()
        await connection.close()


async def test_noise_is_not_heard(onlooker: Onlooker, connection: Connection, keys: Keys) -> None:
    """Anybody may publish on these channels."""
    await onlooker.listen()
    for channel, words in (("completed", b"{"), ("failed", b"\xff"), ("completed", b"7"), ("progress", b"1")):
        await connection.call("PUBLISH", keys(channel), words)
    await connection.call("PUBLISH", keys("completed"), b'{"jobId":"9"}')
    heard: list[Sign] = []
    while not heard:
        heard += await onlooker.signs(5.0)
    assert heard == [Sign("completed", "9")]

"""Values that all viewers share: read once at a time, shared the longer the more expensive they are."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.operations.shared import MAX_AGE_S, SHARE, SharedValue, StillReadingError
from tests.support.clock import FakeClock


class Source:
    """Counts how often it is read; a read ends when `release` is set."""

    def __init__(self, clock: FakeClock, takes_s: float = 1.0) -> None:
        self.clock = clock
        self.takes_s = takes_s
        self.reads = 0
        self.error: Exception | None = None
        self.release = asyncio.Event()
        self.release.set()

    async def read(self) -> int:
        self.reads += 1
        await self.release.wait()
        if self.error is not None:
            raise self.error
        self.clock.advance(self.takes_s)
        return self.reads


async def test_viewers_share_one_read(clock: FakeClock) -> None:
    """Ten at once cause one read; a viewer who leaves does not end it."""
    source = Source(clock)
    source.release.clear()
    value = SharedValue(source.read, clock)
    viewers = [asyncio.create_task(value.get()) for _ in range(10)]
    await asyncio.sleep(0)
    viewers[0].cancel()
    source.release.set()
    results = await asyncio.gather(*viewers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert (results[1:], source.reads) == ([1] * 9, 1)


@pytest.mark.parametrize("takes_s", [0.001, 1.0, 1_000.0])
async def test_expensive_values_are_shared_longer(clock: FakeClock, takes_s: float) -> None:
    source = Source(clock, takes_s)
    value = SharedValue(source.read, clock)
    assert await value.get() == 1
    clock.advance(min(takes_s * SHARE, MAX_AGE_S) * 0.9)
    assert await value.get() == 1
    clock.advance(min(takes_s * SHARE, MAX_AGE_S) * 0.2)
    assert await value.get() == 2


async def test_page_does_not_wait(clock: FakeClock) -> None:
    """Without a value it is told so; later it gets the old one, and the new one when that is read."""
    source = Source(clock)
    value = SharedValue(source.read, clock)
    source.release.clear()
    with pytest.raises(StillReadingError):
        await value.get(wait_s=0)
    source.release.set()
    assert await value.get() == 1
    clock.advance(MAX_AGE_S)
    source.release.clear()
    assert await value.get(wait_s=0) == 1
    source.release.set()
    assert await value.get() == 2


async def test_errors_are_not_kept(clock: FakeClock) -> None:
    """Everybody who waits gets the error, and the next one reads again."""
    source = Source(clock)
    value = SharedValue(source.read, clock)
    source.error = StoreUnavailableError("away")
    results = await asyncio.gather(value.get(), value.get(), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 2
    source.error = None
    assert await value.get() == source.reads == 2

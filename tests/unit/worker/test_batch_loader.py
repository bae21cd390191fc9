"""Lookups that share a query: every caller gets a result or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from flowstate_daemon.worker.lookups import BatchLoader


async def test_bug_in_a_query_is_raised_to_every_caller() -> None:
    """A caller that waited for ever would keep its job's lock and look alive. The next query works again."""

    async def query(keys: Sequence[str]) -> Mapping[str, str]:
        if "bad" in keys:
            raise ValueError("a bug")
        return {key: key.upper() for key in keys if key != "missing"}

    loader = BatchLoader("test", query)
    async with asyncio.timeout(5):
        ends = await asyncio.gather(loader.load("bad"), loader.load("good"), return_exceptions=True)
        assert [type(end) for end in ends] == [ValueError, ValueError]
        assert type((await asyncio.gather(loader.load("missing"), return_exceptions=True))[0]) is KeyError
        assert await loader.load("good") == "GOOD"

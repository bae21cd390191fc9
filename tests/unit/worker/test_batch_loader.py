"""Questions that share a query: nobody who asked is left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from flowstate_daemon.worker.lookups import BatchLoader


async def test_a_bug_in_a_query_is_told_to_all_who_asked_and_the_next_query_works() -> None:
    """Whoever waited for ever would hold its job's lock for ever, and look alive."""

    async def ask(keys: Sequence[str]) -> Mapping[str, str]:
        if "bad" in keys:
            raise ValueError("a bug")
        return {key: key.upper() for key in keys if key != "unheard"}

    loader = BatchLoader("test", ask)
    async with asyncio.timeout(5):
        ends = await asyncio.gather(loader.load("bad"), loader.load("good"), return_exceptions=True)
        assert [type(end) for end in ends] == [ValueError, ValueError]
        assert type((await asyncio.gather(loader.load("unheard"), return_exceptions=True))[0]) is KeyError
        assert await loader.load("good") == "GOOD"

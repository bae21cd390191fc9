"""Questions of many runs, gathered into few queries: whoever asks while one is under way shares the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from flowstate_daemon.base.errors import Outage

V = TypeVar("V")

MOST = 500  # questions in one query
FIRST_REST_S = 0.5
LONGEST_REST_S = 5.0


class Gather(Generic[V]):
    """Asks `ask` for up to MOST keys at a time; it answers every key that it is asked for."""

    def __init__(self, name: str, ask: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._name = name
        self._ask = ask
        self._asked: dict[str, asyncio.Future[V]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def answer(self, key: str) -> V:
        """The answer for one key. Raises what the query that carried it raised, such as Outage."""
        waiting = self._asked.get(key)
        if waiting is None:
            waiting = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._answer(), name=self._name)
        return await asyncio.shield(waiting)

    async def in_the_end(self, key: str) -> V:
        """The answer, however long the store is away; safe to cancel."""
        rest_s = FIRST_REST_S
        while True:
            try:
                return await self.answer(key)
            except Outage:
                await asyncio.sleep(rest_s)
            rest_s = min(rest_s * 2, LONGEST_REST_S)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _answer(self) -> None:
        while self._asked:
            batch = {key: self._asked.pop(key) for key in list(self._asked)[:MOST]}
            try:
                found = await self._ask(list(batch))
                answers = [found[key] for key in batch]
            except Exception as error:  # noqa: BLE001 - a bug, too, is for those who asked: they would wait for ever
                for waiting in batch.values():
                    waiting.set_exception(error)
                    waiting.exception()  # whoever asked may have gone meanwhile
            else:
                for waiting, answer in zip(batch.values(), answers, strict=True):
                    waiting.set_result(answer)

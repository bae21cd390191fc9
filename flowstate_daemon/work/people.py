"""What is known about the people to whom mails are about to go, asked for many of them in one query.

Senders ask. While Postgres is away a code is not kept waiting, and anything else is: a mail that nobody could check
might go to somebody who does not want it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.mail.facts import PersonFacts

log = structlog.get_logger()

MOST = 500  # people in one query
CODE_WAITS_S = 1.0
FIRST_REST_S = 0.5
LONGEST_REST_S = 5.0


class Register(Protocol):
    """Where it stands what is known: `database.suppression`."""

    async def facts_for(self, addresses: Sequence[str]) -> Mapping[str, PersonFacts]: ...


class Tongues(Protocol):
    """Where it stands who has chosen which language: `database.languages`."""

    async def languages_of(self, addresses: Sequence[str]) -> Mapping[str, str]: ...


class People:
    """Gathers questions while one is under way, so that a thousand mails cost two rounds of queries."""

    def __init__(self, register: Register, tongues: Tongues) -> None:
        self._register = register
        self._tongues = tongues
        self._asked: dict[str, asyncio.Future[PersonFacts]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def facts(self, address: str, *, urgent: bool) -> PersonFacts | None:
        """What is known about the owner of an address; None for an urgent mail when nobody could be asked."""
        rest_s = FIRST_REST_S
        while True:
            try:
                async with asyncio.timeout(CODE_WAITS_S if urgent else None):
                    return await asyncio.shield(self._ask(address))
            except (Outage, TimeoutError) as error:
                if urgent:
                    log.warning("person_unknown", reason=str(error) or "Postgres is slow", remedy="see DATABASE_URL")
                    return None
            await asyncio.sleep(rest_s)
            rest_s = min(rest_s * 2, LONGEST_REST_S)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _ask(self, address: str) -> asyncio.Future[PersonFacts]:
        waiting = self._asked.get(address)
        if waiting is None:
            waiting = self._asked[address] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._answer(), name="people")
        return waiting

    async def _answer(self) -> None:
        while self._asked:
            batch = {address: self._asked.pop(address) for address in list(self._asked)[:MOST]}
            try:
                found = await self._register.facts_for(list(batch))
                chosen = await self._tongues.languages_of(list(batch))
            except Outage as outage:
                for waiting in batch.values():
                    waiting.set_exception(outage)
                    waiting.exception()  # whoever asked may have gone meanwhile
            else:
                for address, waiting in batch.items():
                    waiting.set_result(replace(found[address], language=chosen.get(address)))

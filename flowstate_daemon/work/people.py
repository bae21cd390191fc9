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
from flowstate_daemon.work.gather import Gather

log = structlog.get_logger()

CODE_WAITS_S = 1.0


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
        self._gather = Gather("people", self._look_up)

    async def facts(self, address: str, *, urgent: bool) -> PersonFacts | None:
        """What is known about the owner of an address; None for an urgent mail when nobody could be asked."""
        if not urgent:
            return await self._gather.in_the_end(address)
        try:
            async with asyncio.timeout(CODE_WAITS_S):
                return await self._gather.answer(address)
        except (Outage, TimeoutError) as error:
            log.warning("person_unknown", reason=str(error) or "Postgres is slow", remedy="see DATABASE_URL")
            return None

    async def close(self) -> None:
        await self._gather.close()

    async def _look_up(self, addresses: Sequence[str]) -> Mapping[str, PersonFacts]:
        found = await self._register.facts_for(addresses)
        chosen = await self._tongues.languages_of(addresses)
        return {address: replace(found[address], language=chosen.get(address)) for address in addresses}

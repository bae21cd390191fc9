"""What programs may ask over HTTP: the queue's state, and why somebody got each mail or did not.

JSON both ways, behind `doorkeeper`. Nothing here shows a job's data: answers hold no code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from aiohttp import web

from flowstate_daemon.base.errors import Malformed
from flowstate_daemon.database.stories import MailStory
from flowstate_daemon.mail.address import read_address
from flowstate_daemon.mail.facts import PersonFacts
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.web.app import answer
from flowstate_daemon.web.doorkeeper import ROOT, Doorkeeper, refusal

NUMBER = re.compile(r"[1-9]\d{0,3}", re.ASCII)
MOST_MAILS = 1_000
USUAL_MAILS = 100


class Register(Protocol):
    """What stands against people: the database's suppression list. Raises Outage."""

    async def facts_for(self, addresses: Sequence[str]) -> Mapping[str, PersonFacts]: ...


class Memory(Protocol):
    """What became of mails: the ledger's reading side. Raises Outage."""

    async def explain(self, address: str, count: int) -> list[MailStory]: ...


class Api:
    """The routes that only read. Without Postgres there is nobody to explain anything."""

    def __init__(
        self, doorkeeper: Doorkeeper, inspector: Inspector, people: tuple[Register, Memory] | None = None
    ) -> None:
        self._doorkeeper = doorkeeper
        self._inspector = inspector
        self._people = people

    def routes(self) -> list[web.RouteDef]:
        guarded = self._doorkeeper.guarded
        routes = [web.get(f"{ROOT}/queue", guarded(self.queue))]
        if self._people is not None:
            routes.append(web.get(f"{ROOT}/explain", guarded(self.explain)))
        return routes

    async def queue(self, _request: web.Request) -> web.Response:
        """How many jobs are in each state, and since when the oldest waits."""
        return answer(await self._inspector.snapshot())

    async def explain(self, request: web.Request) -> web.Response:
        """`?address=…&limit=…`: each mail, newest first, with the decisions on its way."""
        try:
            address = read_address(request.query.get("address", "").strip())
        except Malformed:
            return refusal(400, "address: expected an e-mail address, as ?address=ada@example.org")
        limit = request.query.get("limit", str(USUAL_MAILS))
        if not NUMBER.fullmatch(limit) or int(limit) > MOST_MAILS:
            return refusal(400, f"limit: expected a number from 1 to {MOST_MAILS}")
        assert self._people is not None
        register, memory = self._people
        facts = (await register.facts_for([address]))[address]
        mails = await memory.explain(address, int(limit))
        standing = {"suppressed": sorted(facts.suppressed), "unsubscribed": sorted(facts.unsubscribed)}
        return answer({"address": address, **standing, "mails": mails})

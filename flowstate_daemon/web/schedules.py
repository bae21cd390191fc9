"""`/api/v1/schedules`: when each is next due and what the last run brought; run one now, or rehearse it.

Behind `doorkeeper`. A rehearsal is written as it comes, so that a million people need no memory here; one run or
rehearsal at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, Malformed
from flowstate_daemon.base.privacy import scrubbed
from flowstate_daemon.schedule.by_hand import Overview, Ran, Rehearsed, Wish
from flowstate_daemon.web.app import answer
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.doorkeeper import ROOT, Doorkeeper, refusal

log = structlog.get_logger()

LARGEST_ORDER = 4_096
LONGEST_S = 600.0
PORTION = 64 * 1024  # bytes that are gathered before they go out


class Calendar(Protocol):
    """What the schedule's `ByHand` does. Raises Outage, and NotRun for a wish that makes no sense."""

    @property
    def names(self) -> list[str]: ...

    async def overview(self) -> list[Overview]: ...

    async def run(self, wish: Wish) -> Ran: ...

    def rehearse(self, wish: Wish) -> AsyncIterator[Rehearsed]: ...


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a run; empty for a run now."""

    dry_run: bool = False
    at: datetime | None = None
    force: bool = False
    bodies: bool = False


ORDERS = msgspec.json.Decoder(Order)


class Schedules:
    """The routes."""

    def __init__(self, doorkeeper: Doorkeeper, calendar: Calendar, clock: Clock) -> None:
        self._doorkeeper = doorkeeper
        self._calendar = calendar
        self._clock = clock
        self._busy = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        guarded = self._doorkeeper.guarded
        return [
            web.get(f"{ROOT}/schedules", guarded(self.list)),
            web.post(f"{ROOT}/schedules/{{name}}/run", guarded(self.run)),
        ]

    async def list(self, _request: web.Request) -> web.Response:
        return answer(await self._calendar.overview())

    async def run(self, request: web.Request) -> web.StreamResponse:
        """202 with what was planned, 200 with everybody of a rehearsal."""
        name = request.match_info["name"]
        if name not in self._calendar.names:
            return refusal(404, f"no schedule of that name is on; there are: {', '.join(self._calendar.names)}")
        order = await self._order(request)
        if self._busy.locked():
            return refusal(409, "another run or rehearsal is under way", {"Retry-After": "10"})
        async with self._busy, asyncio.timeout(LONGEST_S):
            wish = Wish(name, self._instant(order), order.force)
            if order.dry_run:
                return await self._rehearse(request, wish, bodies=order.bodies)
            ran = await self._calendar.run(wish)
        log.info("schedule_run_by_hand", kind=name, at=ran.at, people=ran.people, slots=ran.slots, again=ran.renewed)
        return answer(ran, 202)

    async def _order(self, request: web.Request) -> Order:
        body = await read_body(request, LARGEST_ORDER)
        if not body.strip():
            return Order()
        try:
            return ORDERS.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Malformed(f"expected JSON with dry_run, at, force, bodies, all optional: {error}") from error

    def _instant(self, order: Order) -> datetime:
        if order.at is None:
            return self._clock.now()
        try:
            return (order.at if order.at.tzinfo else order.at.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError as error:
            raise Malformed("at: expected an instant of this age") from error

    async def _rehearse(self, request: web.Request, wish: Wish, *, bodies: bool) -> web.StreamResponse:
        people = self._calendar.rehearse(wish)
        first = await anext(people, None)  # what is wrong from the start is still an error's answer
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        head = msgspec.json.encode({"name": wish.name, "at": wish.at, "force": wish.force, "dry_run": True})
        try:
            await response.write(head[:-1] + b',"people":[')
            tail = await self._write(response, first, people, bodies=bodies)
            await response.write(b"]," + msgspec.json.encode(tail)[1:])
            await response.write_eof()
        except ConnectionError:
            log.info("rehearsal_unheard", kind=wish.name)  # whoever asked has hung up
        return response

    @staticmethod
    async def _write(
        response: web.StreamResponse, first: Rehearsed | None, people: AsyncIterator[Rehearsed], *, bodies: bool
    ) -> dict[str, object]:
        """Everybody, as they come; returns how the document ends. An outage in the middle ends it in order."""
        counts: dict[str, object] = {}
        sends = skips = 0
        pending = bytearray()
        one = first
        try:
            while one is not None:
                pending += (b"," if sends + skips else b"") + msgspec.json.encode(one.document(bodies=bodies))
                sends, skips = sends + one.sends, skips + (not one.sends)
                if len(pending) >= PORTION:
                    await response.write(bytes(pending))
                    pending.clear()
                one = await anext(people, None)
        except FlowstateError as error:
            counts["error"] = scrubbed(error.reason)
        await response.write(bytes(pending))
        return {"sends": sends, "skips": skips, **counts}

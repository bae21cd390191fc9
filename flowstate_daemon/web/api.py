"""What programs may ask over HTTP: the queue's state, and why somebody got each mail or did not.

JSON both ways, behind `doorkeeper`. Nothing here shows a job's data: answers hold no code.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, InvalidDataError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.address import parse_address
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.scheduler.manual_runs import DryRunItem, ManualRuns, RunRequest
from flowstate_daemon.web.auth import ROOT, BearerAuth, error_response
from flowstate_daemon.web.server import json_response, read_body

NUMBER = re.compile(r"[1-9]\d{0,3}", re.ASCII)
MAX_MAILS = 1_000
DEFAULT_MAILS = 100


class Api:
    """The routes that only read. Without Postgres there is nobody to explain anything."""

    def __init__(
        self, auth: BearerAuth, inspector: Inspector, recipients: tuple[Suppressions, MailHistory] | None = None
    ) -> None:
        self._auth = auth
        self._inspector = inspector
        self._recipients = recipients

    def routes(self) -> list[web.RouteDef]:
        guarded = self._auth.require_token
        routes = [web.get(f"{ROOT}/queue", guarded(self.queue))]
        if self._recipients is not None:
            routes.append(web.get(f"{ROOT}/explain", guarded(self.explain)))
        return routes

    async def queue(self, _request: web.Request) -> web.Response:
        """How many jobs are in each state, and since when the oldest waits."""
        return json_response(await self._inspector.snapshot())

    async def explain(self, request: web.Request) -> web.Response:
        """`?address=…&limit=…`: each mail, newest first, with the decisions on its way."""
        try:
            address = parse_address(request.query.get("address", "").strip())
        except InvalidDataError:
            return error_response(400, "address: expected an e-mail address, as ?address=ada@example.org")
        limit = request.query.get("limit", str(DEFAULT_MAILS))
        if not NUMBER.fullmatch(limit) or int(limit) > MAX_MAILS:
            return error_response(400, f"limit: expected a number from 1 to {MAX_MAILS}")
        assert self._recipients is not None
        register, memory = self._recipients
        facts = (await register.status_for([address]))[address]
        mails = await memory.explain(address, int(limit))
        standing = {"suppressed": sorted(facts.suppressed), "unsubscribed": sorted(facts.unsubscribed)}
        return json_response({"address": address, **standing, "mails": mails})


log = structlog.get_logger()

MAX_BODY_BYTES = 4_096
DRY_RUN_TIMEOUT_S = 600.0
CHUNK_BYTES = 64 * 1024  # bytes that are gathered before they go out


class RunBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a run; empty for a run now."""

    dry_run: bool = False
    at: datetime | None = None
    force: bool = False
    bodies: bool = False


RUN_BODY_DECODER = msgspec.json.Decoder(RunBody)


class Schedules:
    """The routes."""

    def __init__(self, auth: BearerAuth, scheduler: ManualRuns, clock: Clock) -> None:
        self._auth = auth
        self._scheduler = scheduler
        self._clock = clock
        self._busy = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        guarded = self._auth.require_token
        return [
            web.get(f"{ROOT}/schedules", guarded(self.list)),
            web.post(f"{ROOT}/schedules/{{name}}/run", guarded(self.run)),
        ]

    async def list(self, _request: web.Request) -> web.Response:
        return json_response(await self._scheduler.overview())

    async def run(self, request: web.Request) -> web.StreamResponse:
        """202 with what was planned, 200 with everybody of a rehearsal."""
        name = request.match_info["name"]
        if name not in self._scheduler.names:
            return error_response(404, f"no schedule of that name is on; there are: {', '.join(self._scheduler.names)}")
        order = await self._order(request)
        if self._busy.locked():
            return error_response(409, "another run or rehearsal is under way", {"Retry-After": "10"})
        async with self._busy, asyncio.timeout(DRY_RUN_TIMEOUT_S):
            wish = RunRequest(name, self._instant(order), order.force)
            if order.dry_run:
                return await self._dry_run(request, wish, bodies=order.bodies)
            ran = await self._scheduler.run(wish)
        log.info(
            "schedule_run_manual",
            kind=name,
            at=ran.at,
            recipients=ran.recipients,
            scheduled=ran.scheduled,
            reopened=ran.reopened,
        )
        return json_response(ran, 202)

    async def _order(self, request: web.Request) -> RunBody:
        body = await read_body(request, MAX_BODY_BYTES)
        if not body.strip():
            return RunBody()
        try:
            return RUN_BODY_DECODER.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidDataError(f"expected JSON with dry_run, at, force, bodies, all optional: {error}") from error

    def _instant(self, order: RunBody) -> datetime:
        if order.at is None:
            return self._clock.now()
        try:
            return (order.at if order.at.tzinfo else order.at.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError as error:
            raise InvalidDataError("at: expected an instant of this age") from error

    async def _dry_run(self, request: web.Request, wish: RunRequest, *, bodies: bool) -> web.StreamResponse:
        recipients = self._scheduler.dry_run(wish)
        first = await anext(recipients, None)  # what is wrong from the start is still an error's answer
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        head = msgspec.json.encode({"name": wish.name, "at": wish.at, "force": wish.force, "dry_run": True})
        try:
            await response.write(head[:-1] + b',"recipients":[')
            tail = await self._write(response, first, recipients, bodies=bodies)
            await response.write(b"]," + msgspec.json.encode(tail)[1:])
            await response.write_eof()
        except ConnectionError:
            log.info("dry_run_client_disconnected", kind=wish.name)  # whoever asked has hung up
        return response

    @staticmethod
    async def _write(
        response: web.StreamResponse, first: DryRunItem | None, recipients: AsyncIterator[DryRunItem], *, bodies: bool
    ) -> dict[str, object]:
        """Everybody, as they come; returns how the document ends. An outage in the middle ends it in order."""
        counts: dict[str, object] = {}
        sends = skips = 0
        pending = bytearray()
        one = first
        try:
            while one is not None:
                pending += (b"," if sends + skips else b"") + msgspec.json.encode(one.to_dict(bodies=bodies))
                sends, skips = sends + one.would_send, skips + (not one.would_send)
                if len(pending) >= CHUNK_BYTES:
                    await response.write(bytes(pending))
                    pending.clear()
                one = await anext(recipients, None)
        except FlowstateError as error:
            counts["error"] = redact_text(error.reason)
        await response.write(bytes(pending))
        return {"sends": sends, "skips": skips, **counts}

"""The API for operators: the state of the queue, why an address got an email or not, and manual runs of schedules.

Requests and responses are JSON, and `auth.BearerAuth` guards every route. No response contains a job's data, so none
contains a one-time code.
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
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.responses import json_response

log = structlog.get_logger()

NUMBER = re.compile(r"[1-9]\d{0,3}", re.ASCII)
MAX_MAILS = 1_000
DEFAULT_MAILS = 100
MAX_BODY_BYTES = 4_096
DRY_RUN_TIMEOUT_S = 600.0
CHUNK_BYTES = 64 * 1024  # buffered before each write of a dry run


class Api:
    """The read-only routes. `recipients` is None without Postgres; `/explain` does not exist then."""

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
        """The number of jobs in each state, and the age of the oldest waiting job."""
        return json_response(await self._inspector.snapshot())

    async def explain(self, request: web.Request) -> web.Response:
        """`?address=…&limit=…`: each email of the address, newest first, with the decisions about it."""
        try:
            address = parse_address(request.query.get("address", "").strip())
        except InvalidDataError:
            return error_response(400, "address: expected an email address, such as ?address=ada@example.org")
        limit = request.query.get("limit", str(DEFAULT_MAILS))
        if not NUMBER.fullmatch(limit) or int(limit) > MAX_MAILS:
            return error_response(400, f"limit: expected a number from 1 to {MAX_MAILS}")
        assert self._recipients is not None
        suppressions, history = self._recipients
        status = (await suppressions.status_for([address]))[address]
        mails = await history.explain(address, int(limit))
        lists = {"suppressed": sorted(status.suppressed), "unsubscribed": sorted(status.unsubscribed)}
        return json_response({"address": address, **lists, "mails": mails})


class RunBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a run request. An empty body means: run now."""

    dry_run: bool = False
    at: datetime | None = None
    force: bool = False
    bodies: bool = False


RUN_BODY_DECODER = msgspec.json.Decoder(RunBody)


class Schedules:
    """The routes below `/schedules`. One run at a time: a dry run over all users is expensive."""

    def __init__(self, auth: BearerAuth, manual_runs: ManualRuns, clock: Clock) -> None:
        self._auth = auth
        self._manual_runs = manual_runs
        self._clock = clock
        self._run_lock = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        guarded = self._auth.require_token
        return [
            web.get(f"{ROOT}/schedules", guarded(self.list)),
            web.post(f"{ROOT}/schedules/{{name}}/run", guarded(self.run)),
        ]

    async def list(self, _request: web.Request) -> web.Response:
        return json_response(await self._manual_runs.overview())

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Run one schedule: 202 with the totals, or for a dry run 200 with every recipient."""
        name = request.match_info["name"]
        if name not in self._manual_runs.names:
            return error_response(
                404, f"no enabled schedule has this name; enabled: {', '.join(self._manual_runs.names)}"
            )
        body = await self._read_run_body(request)
        if self._run_lock.locked():
            return error_response(409, "another run is in progress", {"Retry-After": "10"})
        async with self._run_lock, asyncio.timeout(DRY_RUN_TIMEOUT_S):
            run_request = RunRequest(name, self._instant(body), body.force)
            if body.dry_run:
                return await self._dry_run(request, run_request, bodies=body.bodies)
            result = await self._manual_runs.run(run_request)
        log.info(
            "schedule_run_manual",
            kind=name,
            at=result.at,
            recipients=result.recipients,
            scheduled=result.scheduled,
            reopened=result.reopened,
        )
        return json_response(result, 202)

    async def _read_run_body(self, request: web.Request) -> RunBody:
        body = await read_body(request, MAX_BODY_BYTES)
        if not body.strip():
            return RunBody()
        try:
            return RUN_BODY_DECODER.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidDataError(f"expected JSON with dry_run, at, force, bodies, all optional: {error}") from error

    def _instant(self, body: RunBody) -> datetime:
        if body.at is None:
            return self._clock.now()
        try:
            return (body.at if body.at.tzinfo else body.at.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError as error:
            raise InvalidDataError("at: the date is out of range") from error

    async def _dry_run(self, request: web.Request, run_request: RunRequest, *, bodies: bool) -> web.StreamResponse:
        items = self._manual_runs.dry_run(run_request)
        # Fetch the first item before the response starts, so that an error up to here still gets an error status.
        first = await anext(items, None)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        fields = {"name": run_request.name, "at": run_request.at, "force": run_request.force, "dry_run": True}
        head = msgspec.json.encode(fields)
        try:
            await response.write(head[:-1] + b',"recipients":[')
            tail = await self._write_items(response, first, items, bodies=bodies)
            await response.write(b"]," + msgspec.json.encode(tail)[1:])
            await response.write_eof()
        except ConnectionError:
            log.info("dry_run_client_disconnected", kind=run_request.name)
        return response

    @staticmethod
    async def _write_items(
        response: web.StreamResponse, first: DryRunItem | None, items: AsyncIterator[DryRunItem], *, bodies: bool
    ) -> dict[str, object]:
        """Write the items as they arrive; returns the last fields of the document.

        The status is already sent when a store becomes unavailable, so the document ends with the field `error`.
        """
        error_field: dict[str, object] = {}
        sends = skips = 0
        pending = bytearray()
        item = first
        try:
            while item is not None:
                pending += (b"," if sends + skips else b"") + msgspec.json.encode(item.to_dict(bodies=bodies))
                sends, skips = sends + item.would_send, skips + (not item.would_send)
                if len(pending) >= CHUNK_BYTES:
                    await response.write(bytes(pending))
                    pending.clear()
                item = await anext(items, None)
        except FlowstateError as error:
            error_field["error"] = redact_text(error.reason)
        await response.write(bytes(pending))
        return {"sends": sends, "skips": skips, **error_field}

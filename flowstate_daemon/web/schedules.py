"""The API for schedules: their next and last runs, manual runs, and dry runs.

A run may take minutes, longer than clients and proxies wait. So it does not depend on the request: after RUN_WAIT_S the
response says that the run continues, and where its result will be. A dry run writes its recipients as they are found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import msgspec
import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, InvalidDataError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.scheduler.manual_runs import DryRunItem, ManualRuns, RunRequest, RunResult
from flowstate_daemon.web.auth import ROOT, BearerAuth, error_response
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.responses import json_response

log = structlog.get_logger()

MAX_BODY_BYTES = 4_096
RUN_WAIT_S = 20.0  # less than clients and proxies usually wait
WRITE_TIMEOUT_S = 60.0  # a client of a dry run that reads nothing for so long has gone
CHUNK_BYTES = 64 * 1024  # buffered before each write of a dry run


class RunBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a run request. An empty body means: run now."""

    dry_run: bool = False
    at: datetime | None = None
    force: bool = False
    bodies: bool = False


RUN_BODY_DECODER = msgspec.json.Decoder(RunBody)


@dataclass(frozen=True, slots=True)
class RunState:
    """The last manual run of one schedule by this daemon, as the API shows it; `status` is the path to read it."""

    name: str
    at: datetime
    started_at: datetime
    status: str
    state: Literal["running", "finished", "failed"] = "running"
    result: RunResult | None = None
    reason: str = ""


class Schedules:
    """The routes below `/schedules`. One run at a time: a dry run over all users is expensive."""

    def __init__(self, auth: BearerAuth, manual_runs: ManualRuns, clock: Clock) -> None:
        self._auth = auth
        self._manual_runs = manual_runs
        self._clock = clock
        self._running = ""  # the name of the schedule that is being run
        self._task: asyncio.Task[RunResult] | None = None
        self._states: dict[str, RunState] = {}

    def routes(self) -> list[web.RouteDef]:
        guarded = self._auth.require_token
        return [
            web.get(f"{ROOT}/schedules", guarded(self.list)),
            web.get(f"{ROOT}/schedules/{{name}}/run", guarded(self.run_state)),
            web.post(f"{ROOT}/schedules/{{name}}/run", guarded(self.run)),
        ]

    async def close(self) -> None:
        """Cancel a run in progress; what it has planned stays planned, and running it again plans the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def list(self, _request: web.Request) -> web.Response:
        return json_response(await self._manual_runs.overview())

    async def run_state(self, request: web.Request) -> web.Response:
        """The last manual run of one schedule by this daemon, also while it is in progress."""
        state = self._states.get(request.match_info["name"])
        if state is None:
            hint = f"this daemon has not run this schedule since it started; GET {ROOT}/schedules shows the last runs"
            return error_response(404, hint)
        return json_response(state)

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Run one schedule: 202 with the totals or the state of a long run; for a dry run 200 with every recipient."""
        name = request.match_info["name"]
        if name not in self._manual_runs.names:
            return error_response(
                404, f"no enabled schedule has this name; enabled: {', '.join(self._manual_runs.names)}"
            )
        body = await self._read_run_body(request)
        run_request = RunRequest(name, self._instant(body), body.force)
        if self._running:
            reason = f"another run is in progress; GET {_path(self._running)} shows its state"
            return error_response(409, reason, {"Retry-After": "10"})
        self._running = name
        if not body.dry_run:
            self._task = asyncio.create_task(self._run(run_request), name="manual_run")
            return await self._wait(name, self._task)
        try:
            return await self._dry_run(request, run_request, bodies=body.bodies)
        finally:
            self._running = ""

    async def _run(self, run_request: RunRequest) -> RunResult:
        """Run the schedule, and keep state and result. It does not end when the client leaves."""
        name, started_at = run_request.name, self._clock.now()
        running = RunState(name, run_request.at, started_at, _path(name))
        self._states[name] = running
        try:
            result = await self._manual_runs.run(run_request, actor="API")
        except Exception as error:
            reason = redact_text(error.reason) if isinstance(error, FlowstateError) else "an unexpected error"
            self._states[name] = replace(running, state="failed", reason=reason)
            raise
        finally:
            self._running = ""
        self._states[name] = replace(running, state="finished", result=result)
        log.info(
            "schedule_run_manual",
            kind=name,
            at=result.at,
            recipients=result.recipients,
            scheduled=result.scheduled,
            reopened=result.reopened,
        )
        return result

    async def _wait(self, name: str, task: asyncio.Task[RunResult]) -> web.Response:
        """The result of a short run, else the state of a long one."""
        try:
            await asyncio.wait((task,), timeout=RUN_WAIT_S)
        finally:
            if not task.done():
                task.add_done_callback(_log_failure)
        if task.done():
            return json_response(task.result(), 202)
        response = json_response(self._states[name], 202)
        response.headers["Location"] = _path(name)
        return response

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
            await _write(response, head[:-1] + b',"recipients":[')
            tail = await self._write_items(response, first, items, bodies=bodies)
            await _write(response, b"]," + msgspec.json.encode(tail)[1:])
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            log.info("dry_run_client_disconnected", kind=run_request.name)
            if request.transport is not None:
                request.transport.abort()  # a client that has stopped reading
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
                    await _write(response, bytes(pending))
                    pending.clear()
                item = await anext(items, None)
        except FlowstateError as error:
            error_field["error"] = redact_text(error.reason)
        await _write(response, bytes(pending))
        return {"sends": sends, "skips": skips, **error_field}


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Write one part; the whole response has no time limit. Raises TimeoutError when nobody reads."""
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


def _path(name: str) -> str:
    return f"{ROOT}/schedules/{name}/run"


def _log_failure(task: asyncio.Task[RunResult]) -> None:
    """Log why a long run failed: nobody waits for its result any more."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, FlowstateError):
        log.warning(
            "schedule_run_failed", reason=redact_text(error.reason), remedy="run it again: there are no duplicates"
        )
    elif error is not None:
        log.error("schedule_run_failed", exc_info=error, remedy="please report this bug")

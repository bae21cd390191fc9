"""Schedules: their next and last runs, manual runs, and dry runs.

A run may take minutes, longer than clients and proxies wait. So it does not depend on the request: after RUN_WAIT_S the
response says that the run continues, and where its result will be. A dry run writes its recipients as they are found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import msgspec
import structlog
from aiohttp import web

from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.base.service import cancel
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.scheduler.manual_runs import DryRunItem, ManualRuns, Overview, RunRequest, RunResult
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.disabled import ROOT
from flowstate_daemon.web.api_v1.endpoints import ApiError, Call, Endpoint, json_document

log = structlog.get_logger()

MAX_BODY_BYTES = 4_096
NO_SCHEDULES = "this daemon has no schedules: set DATABASE_URL and schedule.enabled"
NO_RUN = f"this daemon has not run this schedule since it started; GET {ROOT}/schedules shows the last runs"
RUN_WAIT_S = 20.0  # less than clients and proxies usually wait
WRITE_TIMEOUT_S = 60.0  # a client of a dry run that reads nothing for so long has gone
CHUNK_BYTES = 64 * 1024  # buffered before each write of a dry run


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


class ScheduleEndpoints:
    """`/schedules`. One run at a time: a dry run over all users is expensive."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._clock = operator.clock
        self._running = ""  # the name of the schedule that is being run
        self._task: asyncio.Task[RunResult] | None = None
        self._states: dict[str, RunState] = {}

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "get", "/schedules", "Schedules with next and last runs", self.list, list[Overview], errors=(404,)
            ),
            Endpoint(
                "get",
                "/schedules/{name}/run",
                "The last manual run by this daemon, also while it is in progress",
                self.run_state,
                RunState,
                names=models.SchedulePath,
            ),
            Endpoint(
                "post",
                "/schedules/{name}/run",
                "Run a schedule now, or list what a run would send",
                self.run,
                RunResult | RunState,
                names=models.SchedulePath,
                body=models.RunBody,
                status=202,
                others={200: models.DryRunDocument},
                rights="operate",
                errors=(409,),
                max_body_bytes=MAX_BODY_BYTES,
            ),
        ]

    async def close(self) -> None:
        """Cancel a run in progress; what it has planned stays planned, and running it again plans the rest."""
        if self._task is not None:
            await cancel(self._task)

    async def list(self, _call: Call) -> Sequence[Overview]:
        if self._operator.overview is None:
            raise ApiError(404, NO_SCHEDULES)
        return await self._operator.overview.get()

    async def run_state(self, call: Call) -> RunState:
        state = self._states.get(call.path.name)
        if state is None:
            raise ApiError(404, NO_RUN)
        return state

    async def run(self, call: Call) -> web.StreamResponse:
        """202 with the totals or the state of a long run; for a dry run 200 with every recipient."""
        name, body, manual_runs = call.path.name, call.body, self._manual_runs()
        if name not in manual_runs.names:
            raise ApiError(404, f"no enabled schedule has this name; enabled: {', '.join(manual_runs.names)}")
        run_request = RunRequest(name, body.at or self._clock.now(), body.force)
        if self._running:
            reason = f"another run is in progress; GET {_path(self._running)} shows its state"
            raise ApiError(409, reason, retry_after_s=10)
        self._running = name
        if not body.dry_run:
            self._task = asyncio.create_task(self._run(run_request, call.actor), name="manual_run")
            return await self._wait(name, self._task)
        try:
            return await self._dry_run(call.request, run_request, body.to or "", bodies=body.bodies)
        finally:
            self._running = ""

    def _manual_runs(self) -> ManualRuns:
        if self._operator.schedules is None:
            raise ApiError(404, NO_SCHEDULES)
        return self._operator.schedules

    async def _run(self, run_request: RunRequest, actor: str) -> RunResult:
        """Run the schedule, and keep state and result. It does not end when the client leaves."""
        name, started_at = run_request.name, self._clock.now()
        running = RunState(name, run_request.at, started_at, _path(name))
        self._states[name] = running
        try:
            result = await self._manual_runs().run(run_request, actor=actor)
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
        target = f"{name}{', forced' if run_request.force else ''}"
        await self._operator.audit(actor).record("schedule run", target, result.scheduled + result.reopened)
        return result

    async def _wait(self, name: str, task: asyncio.Task[RunResult]) -> web.Response:
        """The result of a short run, else the state of a long one."""
        try:
            await asyncio.wait((task,), timeout=RUN_WAIT_S)
        finally:
            if not task.done():
                task.add_done_callback(_log_failure)
        if task.done():
            return json_document(RunResult, task.result(), 202)
        return json_document(RunState, self._states[name], 202, {"Location": _path(name)})

    async def _dry_run(
        self, request: web.Request, run_request: RunRequest, to: str, *, bodies: bool
    ) -> web.StreamResponse:
        items = self._manual_runs().dry_run(run_request, to)
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
    """Write one part; the whole response has no time limit. Raises TimeoutError when the client does not read."""
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


def _path(name: str) -> str:
    return f"{ROOT}/schedules/{name}/run"


def _log_failure(task: asyncio.Task[RunResult]) -> None:
    """Log why a long run failed: no client waits for its result any more."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, FlowstateError):
        log.warning(
            "schedule_run_failed", reason=redact_text(error.reason), remedy="run it again: there are no duplicates"
        )
    elif error is not None:
        log.error("schedule_run_failed", exc_info=error, remedy="please report this bug")

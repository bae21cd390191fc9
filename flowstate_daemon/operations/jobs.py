"""Actions on jobs: retry, remove, promote; on ids, or on all that match a filter, in the background with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, get_args
from uuid import uuid4

import structlog

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, PermanentError, StoreUnavailableError
from flowstate_daemon.base.service import cancel
from flowstate_daemon.queue.admin import (
    BulkResult,
    JobNotFoundError,
    JobStateError,
    Patience,
    Progress,
    QueueAdmin,
    describe_jobs,
)
from flowstate_daemon.queue.filters import EVERYTHING, JobFilter
from flowstate_daemon.queue.job import State
from flowstate_daemon.queue.search import COUNT_BUDGET_S, JobSearch, MatchCount

log = structlog.get_logger()

Action = Literal["retry", "remove", "promote"]
ACTIONS: tuple[Action, ...] = get_args(Action)
STATES_OF_ACTION: dict[Action, tuple[State, ...]] = {
    "retry": ("failed",),
    "promote": ("delayed",),
    "remove": ("wait", "paused", "delayed", "completed", "failed"),
}
ABANDONED = "Redis did not answer: a piece whose reply is missing is not in `done`, and the audit log has no entry"
MAX_KEPT = 50  # finished actions that are still shown
MAX_RUNNING = 4
MIN_WAIT_S, MAX_WAIT_S = 0.2, 5.0  # between two tries while Redis is unavailable
# At the end of the daemon: for the current piece and the audit, from the request to stop; and at least, when closing.
END_S, MIN_END_S = 2.0, 0.3


class ActionRefusedError(PermanentError):
    """This action is not possible; the reason says why."""


class ActionStoppedError(Exception):
    """An operator has stopped this action."""


@dataclass(frozen=True, slots=True)
class IdResult:
    """The result of an action on one job; `error` is "" when it was changed."""

    job_id: str
    error: str = ""


@dataclass(slots=True)
class RunningAction:
    """An action on all jobs that match a filter. Times are Unix ms; `expected` is how many matched before.

    `waiting_for` is why it does not go on now: Redis is unavailable. `done` then lacks a piece whose reply was lost.
    """

    id: str
    action: Action
    state: State
    job_filter: JobFilter
    expected: int
    started_at: int
    done: int = 0
    left_out: int = 0
    finished_at: int | None = None
    is_stopped: bool = False
    error: str = ""
    waiting_for: str = ""
    stop_requested: asyncio.Event = field(default_factory=asyncio.Event, repr=False)


class JobActions:
    """Changes the jobs of one queue for one daemon's operators. Long actions belong to this process: a stop ends them,
    and what they have done is in the audit log.
    """

    def __init__(self, search: JobSearch, clock: Clock) -> None:
        self._search = search
        self._clock = clock
        self._actions: dict[str, RunningAction] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._end_at: float | None = None  # monotonic; set when the daemon stops

    @property
    def actions(self) -> list[RunningAction]:
        """The running and the last finished actions, newest first."""
        return sorted(self._actions.values(), key=lambda action: -action.started_at)

    async def preview(
        self, action: Action, state: State, job_filter: JobFilter = EVERYTHING, *, budget_s: float = COUNT_BUDGET_S
    ) -> MatchCount:
        """How many jobs an action would change. Raises ActionRefusedError."""
        check_action(action, state)
        return await self._search.count(state, job_filter, budget_s=budget_s)

    async def apply(self, admin: QueueAdmin, action: Action, job_ids: Sequence[str]) -> list[IdResult]:
        """Change single jobs; the result says for each id what became of it."""
        change = {"retry": admin.retry, "remove": admin.remove, "promote": admin.promote}[action]
        results = []
        for job_id in job_ids:
            try:
                await change(job_id)
            except (JobNotFoundError, JobStateError) as error:
                results.append(IdResult(job_id, error.reason))
            else:
                results.append(IdResult(job_id))
        return results

    async def start(
        self, admin: QueueAdmin, action: Action, state: State, job_filter: JobFilter, *, maybe_sent: bool = False
    ) -> RunningAction:
        """Change all jobs that match, in the background. Raises ActionRefusedError."""
        expected = (await self.preview(action, state, job_filter)).estimate
        if self._end_at is not None:
            raise ActionRefusedError("the daemon is stopping: start the action again on another one, or later")
        if len(self._tasks) >= MAX_RUNNING:
            raise ActionRefusedError(f"{MAX_RUNNING} actions are running already: wait for them, or stop one")
        running = RunningAction(uuid4().hex[:12], action, state, job_filter, expected, self._clock.now_ms())
        self._actions[running.id] = running
        self._forget_old()
        log.info(
            "operator_action_started",
            id=running.id,
            actor=admin.actor,
            action=action,
            jobs=describe_jobs(state, job_filter),
            expected=expected,
        )
        task = asyncio.create_task(self._run(admin, running, maybe_sent=maybe_sent), name=f"{action} {state}")
        self._tasks[running.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(running.id, None))
        return running

    def find(self, action_id: str) -> RunningAction | None:
        return self._actions.get(action_id)

    def stop(self, action_id: str) -> bool:
        """Stop an action after its current piece; False when it does not run."""
        if action_id not in self._tasks:
            return False
        self._actions[action_id].is_stopped = True
        self._actions[action_id].stop_requested.set()
        return True

    async def wait_all(self) -> None:
        """Wait until no action runs."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def stop_all(self) -> None:
        """The daemon stops: stop all actions after their current pieces, and start none."""
        if self._end_at is None:
            self._end_at = self._clock.monotonic() + END_S
        for action_id in list(self._tasks):
            self.stop(action_id)

    async def close(self) -> None:
        """Stop all actions, and wait until their audit is written; not for long, when Redis does not answer."""
        self.stop_all()
        if not self._tasks:
            return
        assert self._end_at is not None
        left_s = max(MIN_END_S, self._end_at - self._clock.monotonic())
        tasks = dict(self._tasks)
        await asyncio.wait(tasks.values(), timeout=left_s)
        for action_id, task in tasks.items():
            if not task.done():
                await cancel(task)
                running = self._actions[action_id]
                log.warning("operator_action_abandoned", action=running.action, done=running.done, remedy=ABANDONED)

    async def _run(self, admin: QueueAdmin, running: RunningAction, *, maybe_sent: bool) -> None:
        backoff = Backoff(MIN_WAIT_S, MAX_WAIT_S)

        def progress(done: int) -> None:
            running.done, running.waiting_for = done, ""
            backoff.reset()
            if running.is_stopped:  # between two pieces, so that the audit log knows what was done
                raise ActionStoppedError

        async def wait(outage: StoreUnavailableError) -> None:
            """Redis comes back: what has been done stays done, and the same piece is tried again."""
            running.waiting_for = outage.reason
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_s()):
                    await running.stop_requested.wait()
            if running.is_stopped:
                raise ActionStoppedError

        try:
            result = await self._change(admin, running, progress, wait, maybe_sent=maybe_sent)
            running.done, running.left_out = result.done, result.left
        except ActionStoppedError:
            log.info("operator_action_stopped", action=running.action, done=running.done)
        except FlowstateError as error:
            running.error = error.reason
            log.warning("operator_action_failed", action=running.action, done=running.done, reason=error.reason)
        finally:
            running.waiting_for = ""
            running.finished_at = self._clock.now_ms()

    @staticmethod
    async def _change(
        admin: QueueAdmin, running: RunningAction, progress: Progress, wait: Patience, *, maybe_sent: bool
    ) -> BulkResult:
        job_filter = running.job_filter
        if running.action == "retry":
            return await admin.retry_all(progress=progress, maybe_sent=maybe_sent, job_filter=job_filter, patience=wait)
        if running.action == "promote":
            return await admin.promote_all(progress, job_filter=job_filter, patience=wait)
        return await admin.clean(running.state, 0, progress=progress, job_filter=job_filter, patience=wait)

    def _forget_old(self) -> None:
        finished = [action for action in self.actions if action.finished_at is not None]
        for action in finished[MAX_KEPT:]:
            del self._actions[action.id]


def check_action(action: Action, state: State) -> None:
    """Raises ActionRefusedError unless the action exists for jobs in that state. Pure."""
    if state not in STATES_OF_ACTION[action]:
        raise ActionRefusedError(f"{action} works on {' or '.join(STATES_OF_ACTION[action])} jobs, not on {state} jobs")

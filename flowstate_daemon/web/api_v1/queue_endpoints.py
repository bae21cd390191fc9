"""The queue, its jobs, failures, and actions on jobs."""

from __future__ import annotations

from collections.abc import Sequence

from flowstate_daemon.operations.failures import FailureGroups
from flowstate_daemon.operations.jobs import IdResult, RunningAction
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.queue.admin import PauseResult
from flowstate_daemon.queue.inspector import JobView, Snapshot
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.endpoints import ApiError, Call, Endpoint

NO_JOB = "there is no job with this id: it was removed, or finished and was not kept"


class QueueEndpoints:
    """`/queue`, `/jobs`, `/job-actions`, `/actions`, `/action-previews`, `/failures`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("get", "/queue", "Number of jobs in each state", self.queue, Snapshot),
            Endpoint(
                "post",
                "/queue/pause",
                "Pause the queue: workers claim no more jobs",
                self.pause,
                models.PauseDocument,
                rights="operate",
                errors=(409,),
            ),
            Endpoint(
                "post",
                "/queue/resume",
                "Resume the queue",
                self.resume,
                models.PauseDocument,
                rights="operate",
                errors=(409,),
            ),
            Endpoint(
                "get", "/jobs", "Jobs in one state, newest first", self.jobs, models.JobList, query=models.JobQuery
            ),
            Endpoint("get", "/jobs/{id}", "One job", self.job, models.JobDocument, names=models.JobPath),
            Endpoint(
                "post",
                "/job-actions",
                "Change single jobs",
                self.apply,
                list[IdResult],
                body=models.IdAction,
                rights="operate",
            ),
            Endpoint(
                "get",
                "/failures",
                "Failed jobs grouped by reason",
                self.failures,
                FailureGroups,
                query=models.FailureQuery,
            ),
            *self._action_endpoints(),
        ]

    def _action_endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "post",
                "/action-previews",
                "How many jobs an action would change",
                self.preview,
                models.Preview,
                body=models.BulkAction,
            ),
            Endpoint(
                "post",
                "/actions",
                "Change all jobs that match, in the background",
                self.start,
                models.ActionDocument,
                body=models.BulkAction,
                status=202,
                rights="operate",
            ),
            Endpoint("get", "/actions", "Running and finished actions", self.actions, list[models.ActionDocument]),
            Endpoint(
                "get",
                "/actions/{id}",
                "One action with its progress",
                self.action,
                models.ActionDocument,
                names=models.ActionPath,
            ),
            Endpoint(
                "delete",
                "/actions/{id}",
                "Stop an action after its current piece",
                self.stop,
                names=models.ActionPath,
                rights="operate",
            ),
        ]

    async def queue(self, _call: Call) -> Snapshot:
        return await self._operator.inspector.snapshot()

    async def pause(self, call: Call) -> models.PauseDocument:
        return pause_document(await self._operator.admin(call.actor).pause())

    async def resume(self, call: Call) -> models.PauseDocument:
        return pause_document(await self._operator.admin(call.actor).resume())

    async def jobs(self, call: Call) -> models.JobList:
        query: models.JobQuery = call.query
        page = await self._operator.search.page(
            query.state, query.job_filter(self._operator.clock.now_ms()), position=query.cursor, count=query.limit
        )
        return models.JobList(
            jobs=[job_document(job) for job in page.jobs],
            next_cursor=page.next_position,
            partial=page.is_partial,
            remaining=page.remaining,
        )

    async def job(self, call: Call) -> models.JobDocument:
        job = await self._operator.inspector.job(call.path.id)
        if job is None:
            raise ApiError(404, NO_JOB)
        return job_document(job)

    async def apply(self, call: Call) -> Sequence[IdResult]:
        body: models.IdAction = call.body
        return await self._operator.actions.apply(self._operator.admin(call.actor), body.action, body.ids)

    async def failures(self, call: Call) -> FailureGroups:
        return await self._operator.failures.groups(call.query.cursor)

    async def preview(self, call: Call) -> models.Preview:
        body: models.BulkAction = call.body
        job_filter = body.filter.job_filter(self._operator.clock.now_ms())
        count = await self._operator.actions.preview(body.action, body.state, job_filter)
        return models.Preview(matching=count.estimate, exact=count.is_exact, examined=count.examined, total=count.total)

    async def start(self, call: Call) -> models.ActionDocument:
        body: models.BulkAction = call.body
        job_filter = body.filter.job_filter(self._operator.clock.now_ms())
        admin = self._operator.admin(call.actor)
        return action_document(
            await self._operator.actions.start(admin, body.action, body.state, job_filter, maybe_sent=body.maybe_sent)
        )

    async def actions(self, _call: Call) -> list[models.ActionDocument]:
        return [action_document(action) for action in self._operator.actions.actions]

    async def action(self, call: Call) -> models.ActionDocument:
        found = self._operator.actions.find(call.path.id)
        if found is None:
            raise ApiError(404, "there is no action with this id on this daemon")
        return action_document(found)

    async def stop(self, call: Call) -> None:
        if not self._operator.actions.stop(call.path.id):
            raise ApiError(404, "no action with this id is running on this daemon")


def pause_document(result: PauseResult) -> models.PauseDocument:
    return models.PauseDocument(is_paused=result.is_paused, changed=result.changed)


def job_document(job: JobView) -> models.JobDocument:
    return models.JobDocument.model_validate(job.to_dict())


def action_document(action: RunningAction) -> models.ActionDocument:
    return models.ActionDocument(
        id=action.id,
        action=action.action,
        state=action.state,
        filter=action.job_filter.describe(),
        expected=action.expected,
        done=action.done,
        left_out=action.left_out,
        started_at=action.started_at,
        finished_at=action.finished_at,
        stopped=action.is_stopped,
        error=action.error,
        waiting_for=action.waiting_for,
    )

"""What the API offers: the same operations as the pages, on the same objects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from pydantic import TypeAdapter

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.database.mail_list import OutcomeFilter, OutcomeRow
from flowstate_daemon.mail.policy import ALL_KINDS
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.operations.failures import FailureGroups
from flowstate_daemon.operations.jobs import IdResult, RunningAction
from flowstate_daemon.operations.operator import Operator, Recipients
from flowstate_daemon.operations.statistics import HOUR_MS, MINUTE_MS, Point
from flowstate_daemon.queue.inspector import JobView, Snapshot
from flowstate_daemon.scheduler.manual_runs import Overview, RunRequest, RunResult
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.endpoints import ApiError, Call, Endpoint

NO_LEDGER = "this needs Postgres: set DATABASE_URL"
NO_SCHEDULES = "this daemon has no schedules: set DATABASE_URL and schedule.enabled"
SPANS = {
    "hour": (HOUR_MS, MINUTE_MS),
    "day": (24 * HOUR_MS, 15 * MINUTE_MS),
    "week": (7 * 24 * HOUR_MS, 2 * HOUR_MS),
}
MAX_MAILS_OF_RECIPIENT = 100


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a page of the ledger."""

    at: datetime
    key: str
    outcome: str


class ApiOperations:
    """The handlers."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def endpoints(self) -> list[Endpoint]:
        return [*self._queue_endpoints(), *self._mail_endpoints(), *self._state_endpoints()]

    def _queue_endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("get", "/queue", "Number of jobs in each state", self.queue, Snapshot),
            Endpoint("post", "/queue/pause", "Pause the queue", self.pause, models.PauseDocument, rights="operate"),
            Endpoint("post", "/queue/resume", "Resume the queue", self.resume, models.PauseDocument, rights="operate"),
            Endpoint("get", "/jobs", "Jobs in one state", self.jobs, models.JobList, query=models.JobQuery),
            Endpoint("get", "/jobs/{id}", "One job", self.job, models.JobDocument, errors=(404,)),
            Endpoint(
                "post",
                "/jobs/apply",
                "Change single jobs",
                self.apply,
                list[IdResult],
                body=models.IdAction,
                rights="operate",
            ),
            Endpoint(
                "post",
                "/actions/preview",
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
            Endpoint("get", "/actions/{id}", "One action", self.action, models.ActionDocument, errors=(404,)),
            Endpoint("delete", "/actions/{id}", "Stop an action", self.stop, rights="operate", errors=(404,)),
            Endpoint("get", "/failures", "Failed jobs by reason", self.failures, FailureGroups),
        ]

    def _mail_endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "post",
                "/emails",
                "Enqueue emails",
                self.enqueue,
                models.Enqueued,
                body=models.NewEmails,
                status=201,
                rights="operate",
            ),
            Endpoint(
                "get",
                "/emails",
                "Outcomes of emails, newest first",
                self.emails,
                models.EmailList,
                query=models.EmailQuery,
                errors=(404,),
            ),
            Endpoint(
                "get",
                "/recipients/{address}",
                "What is known of an address",
                self.recipient,
                models.RecipientDocument,
                errors=(404,),
            ),
            Endpoint(
                "put",
                "/recipients/{address}/suppression",
                "Send nothing to an address",
                self.suppress,
                body=models.NewSuppression,
                rights="operate",
                errors=(404,),
            ),
            Endpoint(
                "delete",
                "/recipients/{address}/suppression",
                "End the suppression of an address",
                self.unsuppress,
                rights="operate",
                errors=(404,),
            ),
            Endpoint(
                "delete",
                "/recipients/{address}/unsubscribes/{kind}",
                "Undo the unsubscribe from a kind, * for all",
                self.resubscribe,
                rights="operate",
                errors=(404,),
            ),
        ]

    def _state_endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "get", "/schedules", "Schedules with next and last runs", self.schedules, list[Overview], errors=(404,)
            ),
            Endpoint(
                "post",
                "/schedules/{name}/run",
                "Run a schedule now",
                self.run,
                RunResult,
                body=models.RunBody,
                status=202,
                rights="operate",
                errors=(404,),
            ),
            Endpoint(
                "get", "/provider", "Rate limit and state of the provider", self.provider, models.ProviderDocument
            ),
            Endpoint(
                "post", "/provider/retry", "Try the provider again at once", self.retry_provider, rights="operate"
            ),
            Endpoint(
                "get",
                "/statistics",
                "Throughput, latency and failures over time",
                self.statistics,
                list[Point],
                query=models.StatisticsQuery,
            ),
            Endpoint(
                "get",
                "/audit",
                "What operators did to the queue",
                self.audit,
                list[models.AuditEntry],
                query=models.AuditQuery,
            ),
        ]

    async def queue(self, _call: Call) -> Snapshot:
        return await self._operator.inspector.snapshot()

    async def pause(self, call: Call) -> models.PauseDocument:
        result = await self._operator.admin(call.actor).pause()
        return models.PauseDocument(is_paused=result.is_paused, changed=result.changed)

    async def resume(self, call: Call) -> models.PauseDocument:
        result = await self._operator.admin(call.actor).resume()
        return models.PauseDocument(is_paused=result.is_paused, changed=result.changed)

    async def jobs(self, call: Call) -> models.JobList:
        query: models.JobQuery = call.query
        page = await self._operator.search.page(
            query.state, query.job_filter(self._operator.clock.now_ms()), position=query.cursor, count=query.limit
        )
        return models.JobList(jobs=[job_document(job) for job in page.jobs], next_cursor=page.next_position)

    async def job(self, call: Call) -> models.JobDocument:
        job = await self._operator.inspector.job(call.path["id"])
        if job is None:
            raise ApiError(404, "there is no job with this id: it was removed, or finished and was not kept")
        return job_document(job)

    async def apply(self, call: Call) -> Sequence[IdResult]:
        body: models.IdAction = call.body
        return await self._operator.actions.apply(self._operator.admin(call.actor), body.action, body.ids)

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
        found = self._operator.actions.find(call.path["id"])
        if found is None:
            raise ApiError(404, "there is no action with this id on this daemon")
        return action_document(found)

    async def stop(self, call: Call) -> None:
        if not self._operator.actions.stop(call.path["id"]):
            raise ApiError(404, "no action with this id is running on this daemon")

    async def failures(self, _call: Call) -> FailureGroups:
        return await self._operator.failures.groups()

    async def enqueue(self, call: Call) -> models.Enqueued:
        body: models.NewEmails = call.body
        mails = [
            NewMail(mail.kind, mail.to, mail.context, delay_ms=mail.delay_ms, locale=mail.locale)
            for mail in body.emails
        ]
        ids, repeated = await self._operator.enqueue.enqueue(mails, body.idempotency_key)
        return models.Enqueued(job_ids=ids, repeated=repeated)

    async def emails(self, call: Call) -> models.EmailList:
        query: models.EmailQuery = call.query
        now = self._operator.clock.now()
        wanted = OutcomeFilter(
            kinds=query.kind,
            outcomes=query.outcome,
            address=query.recipient,
            reason=query.reason,
            since=None if query.newer_than is None else now - age(query.newer_than),
            until=None if query.older_than is None else now - age(query.older_than),
        )
        rows = await self._recipients().mails.page(wanted, query.limit, read_cursor(query.cursor))
        documents = [
            models.EmailDocument(
                mail=row.mail,
                at=row.at,
                address=row.address,
                kind=row.kind,
                job_id=row.job_id,
                attempt=row.attempt,
                outcome=row.outcome,
                provider_id=row.provider_id,
                reason=row.reason,
            )
            for row in rows
        ]
        following = None if len(rows) < query.limit else write_cursor(rows[-1])
        return models.EmailList(emails=documents, next_cursor=following)

    async def recipient(self, call: Call) -> models.RecipientDocument:
        address, recipients = parse_address(call.path["address"]), self._recipients()
        status = (await recipients.suppressions.status_for([address]))[address]
        mails = await recipients.history.explain(address, MAX_MAILS_OF_RECIPIENT)
        return models.RecipientDocument(
            address=address,
            suppressed=sorted(status.suppressed),
            unsubscribed=sorted(status.unsubscribed),
            emails=TypeAdapter(type(mails)).dump_python(mails, mode="json"),
        )

    async def suppress(self, call: Call) -> None:
        address, body = parse_address(call.path["address"]), call.body
        await self._recipients().suppressions.add(address, "manual", body.note or None, actor=call.actor)

    async def unsuppress(self, call: Call) -> None:
        address = parse_address(call.path["address"])
        if not await self._recipients().suppressions.remove(address, actor=call.actor):
            raise ApiError(404, "this address is not suppressed")

    async def resubscribe(self, call: Call) -> None:
        address = parse_address(call.path["address"])
        kinds = await self._recipients().suppressions.resubscribe(address, call.path["kind"] or ALL_KINDS)
        if not kinds:
            raise ApiError(404, "this address is not unsubscribed from that")
        await self._operator.audit(call.actor).record("unsubscribed remove", call.path["kind"], len(kinds))

    async def schedules(self, _call: Call) -> list[Overview]:
        if self._operator.schedules is None:
            raise ApiError(404, NO_SCHEDULES)
        return await self._operator.schedules.overview()

    async def run(self, call: Call) -> RunResult:
        schedules, body = self._operator.schedules, call.body
        if schedules is None or call.path["name"] not in schedules.names:
            known = "" if schedules is None else f"enabled schedules: {', '.join(schedules.names)}"
            raise ApiError(404, known or NO_SCHEDULES)
        result = await schedules.run(RunRequest(call.path["name"], body.at or self._operator.clock.now(), body.force))
        await self._operator.audit(call.actor).record("schedule run", result.name, result.scheduled + result.reopened)
        return result

    async def provider(self, _call: Call) -> models.ProviderDocument:
        found = await self._operator.rate_limiter.state()
        problems = [models.ProviderProblem(**msgspec.structs.asdict(problem)) for problem in found.problems]
        return models.ProviderDocument(
            state=found.state,
            limit=found.limit,
            slowdown=found.slowdown,
            blocked_for_ms=found.blocked_for_ms,
            bulk_paused_ms=found.bulk_paused_ms,
            reason=found.reason,
            recent_requests=found.recent_requests,
            problems=problems,
        )

    async def retry_provider(self, call: Call) -> None:
        await self._operator.rate_limiter.request_retry()
        await self._operator.audit(call.actor).record("provider retry", "all daemons", 1)

    async def statistics(self, call: Call) -> list[Point]:
        span_ms, step_ms = SPANS[call.query.span]
        now_ms = self._operator.clock.now_ms()
        return await self._operator.statistics.points(now_ms, span_ms=span_ms, step_ms=step_ms)

    async def audit(self, call: Call) -> list[models.AuditEntry]:
        actions = await self._operator.audit(call.actor).newest(call.query.limit)
        return [models.AuditEntry(**msgspec.structs.asdict(action)) for action in actions]

    def _recipients(self) -> Recipients:
        if self._operator.recipients is None:
            raise ApiError(404, NO_LEDGER)
        return self._operator.recipients


def age(text: str) -> timedelta:
    return timedelta(milliseconds=models.duration_ms(text))


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
    )


def write_cursor(row: OutcomeRow) -> str:
    return msgspec.json.encode(Cursor(row.at, row.key, row.outcome)).decode()


def read_cursor(text: str) -> OutcomeRow | None:
    """The row after which a page begins. Raises ApiError for a cursor that this API has not made."""
    if not text:
        return None
    try:
        cursor = msgspec.json.decode(text, type=Cursor)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise ApiError(400, "cursor: use next_cursor of the page before") from None
    if cursor.at.tzinfo is None:
        raise ApiError(400, "cursor: use next_cursor of the page before")
    return OutcomeRow(cursor.key, "", cursor.at, "", "", "", 0, cursor.outcome, None, None)

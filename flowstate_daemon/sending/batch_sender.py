"""Sends one stored batch to the provider and decides what the response means for each of its emails.

The dispatcher calls it in a task per request, and queues again what it returns. Two rules prevent double sends: what
may have reached the provider is sent again as the same bytes with the same key; and a request is split up only if the
provider has certainly not processed it and this process still holds all its jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    AlreadyAcceptedError,
    FlowstateError,
    PermanentError,
    ProviderRefusedError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimit,
    RateLimitedError,
    RequestInProgressError,
    ResultClass,
    StaleDecisionError,
    StoreUnavailableError,
    UnclearRefusalError,
)
from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.delivery.gateway import Gateway, Rejected, Result, SendResult
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.sending.batch import (
    OUTCOME_UNKNOWN,
    Batch,
    OutgoingMail,
    decode_results,
    encode_results,
    expired_error,
)
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.refusals import Cause
from flowstate_daemon.sending.request_recorder import forget_members
from flowstate_daemon.sending.request_store import TTL_MS, RequestStore
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.sending.stored_request import JobRef, StoredRequest

if TYPE_CHECKING:  # it needs packages of the extra `otel`
    from flowstate_daemon.base.tracing import Tracing

log = structlog.get_logger()

ALREADY_ACCEPTED_ID = "accepted-earlier"
REDIS_RETRY_S = 0.5
NETWORK_RETRY_S = 1.0
MAX_WAIT_S = 30.0
MIN_LOGGED_WAIT_S = 5.0  # shorter waits are usual
QUOTA_RETRY_S = 10.0  # after this time a code tries again whether the quota is really exceeded


@dataclass(frozen=True, slots=True)
class Requeue:
    """What must be queued again after `after_s` seconds: batches as they are, and emails to be grouped anew.

    `sample` is sent alone and decides for the `others` if it is rejected too.
    """

    batches: Sequence[Batch] = ()
    mails: Sequence[OutgoingMail] = ()
    after_s: float = 0.0
    sample: OutgoingMail | None = None
    others: Sequence[tuple[OutgoingMail, PermanentError]] = ()


NO_REQUEUE = Requeue()


class BatchSender:
    """Sends stored batches through one gateway, and records what the responses say about account, rate and health."""

    def __init__(  # noqa: PLR0913 - it uses every part of the package
        self,
        gateway: Gateway,
        request_store: RequestStore,
        rate_limiter: RateLimiter,
        gate: SendGate,
        urgent_priority: UrgentPriority,
        metrics: Metrics,
        clock: Clock,
        records: RequestRecords | None = None,
        *,
        tracing: Tracing | None = None,
    ) -> None:
        self._gateway = gateway
        self._tracing = tracing
        self._request_store = request_store
        self._records = records
        self._rate_limiter = rate_limiter
        self._gate = gate
        self._urgent_priority = urgent_priority
        self._metrics = metrics
        self._clock = clock

    async def send(self, batch: Batch) -> Requeue:
        """Make the request and resolve its emails. Returns what must be queued again."""
        stored_request = batch.stored_request
        assert stored_request is not None, "only stored batches are sent"
        if self._clock.now_ms() - stored_request.saved_at > TTL_MS:
            return await self._abandon(batch)
        if await self._remove_expired(batch):
            return Requeue(mails=batch.pending)
        for mail in batch.mails:
            self._urgent_priority.finished(mail.job.id)
            mail.sent_at = mail.sent_at or self._clock.monotonic()
            mail.in_request = True
        try:
            return await self._exchange(batch, stored_request)
        finally:
            for mail in batch.mails:
                mail.in_request = False
                mail.maybe_sent = batch.maybe_delivered and mail.stored_request_id is not None

    async def _exchange(self, batch: Batch, stored_request: StoredRequest) -> Requeue:
        """The request and what its response means."""
        try:
            response = await self._request(batch, stored_request)
        except FlowstateError as error:
            error.drop_frames()
            if isinstance(error, ProviderUnreachableError):
                return await self._wait_for_network(batch, error)
            requeue = await self._handle_error(batch, error)
            if requeue is None:
                return self._keep_for_retry(batch, error)
            rate_limit = error.rate_limit
        else:
            self._gate.record_accepted(sent=any(isinstance(result, Accepted) for result in response.results))
            requeue = await self._handle_results(batch, response.results)
            rate_limit = response.rate_limit
        # From here on the provider has responded, even if with a refusal.
        self._gate.circuit_breaker.record_success()
        await self._share(rate_limit)
        return requeue

    async def resolve(self, mails: Sequence[OutgoingMail], results: Mapping[JobRef, Result]) -> None:
        """Settle emails of one request by their results. Accepted emails come first: they need no call to Redis."""
        rejected: list[tuple[OutgoingMail, Rejected]] = []
        async for mail in self._urgent_priority.chunked(mails):
            result = results[mail.job_ref]
            if isinstance(result, Accepted):
                mail.accept(result)
            else:
                rejected.append((mail, result))
        if rejected:
            await self._detach_rejected([mail for mail, _ in rejected])
        for mail, result in rejected:
            latest = self._request_store.recent.find(mail.job_ref)
            if latest is None or latest[0] == mail.stored_request_id:
                mail.fail(PermanentError(result.reason))
            else:  # Redis has lost its retry: its next run is settled by that request
                mail.fail(StaleDecisionError("a later request has contained it"))

    async def _request(self, batch: Batch, stored_request: StoredRequest) -> SendResult:
        started = self._clock.monotonic()
        trace = None
        if self._tracing is not None:
            traces = [mail.trace for mail in batch.mails if mail.trace is not None]
            trace = self._tracing.start_request(stored_request.path, len(stored_request.members), traces)
        result: ResultClass | None = None
        try:
            response = await self._gateway.send(
                stored_request.path, stored_request.body, stored_request.key, len(stored_request.members)
            )
            result = response.result
        except FlowstateError as error:
            result = error.result
            raise
        finally:
            if result is not None:
                self._metrics.observe_provider_request(result, self._clock.monotonic() - started)
            if trace is not None:
                trace.end(result)
        return response

    async def _handle_error(self, batch: Batch, error: FlowstateError) -> Requeue | None:
        """What a response that is an error means; None if the outcome is unknown."""
        assert batch.stored_request is not None
        match error:
            case AlreadyAcceptedError():
                log.warning("already_accepted", mails=len(batch.stored_request.members))
                self._gate.record_accepted(sent=False)
                earlier = Accepted(ALREADY_ACCEPTED_ID, self._gateway.name)
                return await self._handle_results(batch, (earlier,) * len(batch.stored_request.members))
            case PermanentError():
                # The request is rejected for what is in it, so the account is accepted.
                self._gate.record_accepted(sent=False)
                return await self._split_rejected(batch, error)
            case UnclearRefusalError():
                return await self._handle_unclear_refusal(batch, error)
            case QuotaExceededError() | ProviderRefusedError():
                return await self._hold(batch, error)
            case RateLimitedError() | RequestInProgressError():
                self._gate.cancel_probe()
                return await self._send_again(batch, error)
        return None

    async def _share(self, rate_limit: RateLimit | None) -> None:
        """Publish what the response said about the rate to the other daemons."""
        try:
            await self._rate_limiter.update_from_headers(rate_limit)
        except StoreUnavailableError as outage:
            log.warning("rate_limit_not_shared", reason=outage.reason)

    async def _handle_results(self, batch: Batch, results: Sequence[Result]) -> Requeue:
        stored_request = batch.stored_request
        assert stored_request is not None
        by_job = dict(zip(stored_request.members, results, strict=True))
        all_rejected = all(isinstance(result, Rejected) for result in results)
        if len(results) > 1 and all_rejected and batch.complete and await self._detach_all(batch):
            return _sample_rejected([(mail, by_job[mail.job_ref]) for mail in batch.pending])
        response = encode_results(results)
        self._request_store.recent.settle(stored_request.id, response)
        if len(results) > 1:
            # For members that another worker holds, or that come back after a crash. Saved before the emails are
            # resolved, because settling the last job deletes the stored request.
            await self._ignore_unavailable(self._request_store.save_response(stored_request.id, response))
        if any(not mail.urgent for mail in batch.mails):
            self._gate.quota_restored()
        while batch.pending:  # resumed members may join while these are resolved
            await self.resolve(batch.pending, by_job)
        return NO_REQUEUE

    async def _split_rejected(self, batch: Batch, error: PermanentError) -> Requeue:
        """Nothing of the request was sent. Sending its halves finds the invalid email and sends the others."""
        if not batch.complete or not await self._detach_all(batch):
            batch.fail(error)
            return NO_REQUEUE
        if len(batch.pending) <= 1:
            batch.fail(error)
            return NO_REQUEUE
        return _halves(batch, error)

    async def _handle_unclear_refusal(self, batch: Batch, error: UnclearRefusalError) -> Requeue:
        """Nothing was sent, and no attempt is used. Other emails, or halves of this request, show what is the cause.

        A single email is released for a while, so that another one is the next probe: one email that the provider
        will never accept must not keep the send gate closed.
        """
        assert batch.stored_request is not None
        cause = self._gate.refusals.record_refused(batch.stored_request.members, error.max_in_a_row)
        if cause is Cause.ALL_MAILS or self._gate.refusal is not None:
            self._gate.block(error.reason, unclear=True)
        self._gate.cancel_probe()
        detached = not batch.maybe_delivered and batch.complete and await self._detach_all(batch)
        if detached and len(batch.pending) > 1:
            return Requeue(mails=batch.pending) if self._gate.refusal is not None else _halves(batch, error)
        for mail in batch.pending:
            if cause is Cause.THESE_MAILS and self._gate.refusals.should_fail(mail.job_ref):
                mail.fail(PermanentError(f"{error.reason} (other emails were accepted meanwhile)"))
            else:
                released = UnclearRefusalError(error.reason, max_in_a_row=error.max_in_a_row)
                released.after_ms = self._gate.refusals.delay_ms(mail.job_ref)
                mail.fail(released)
        return NO_REQUEUE

    async def _hold(self, batch: Batch, error: QuotaExceededError | ProviderRefusedError) -> Requeue:
        """Nothing was processed, and nothing will be for some time: detach codes from the bulk emails that wait."""
        after_s = 0.0
        if isinstance(error, QuotaExceededError):
            self._gate.quota_exceeded(error.reason)
            after_s = QUOTA_RETRY_S
            await self._ignore_unavailable(self._rate_limiter.pause_bulk(error.until_ms, error.reason))
        else:
            self._gate.block(error.reason)
        if batch.maybe_delivered or not batch.complete or not await self._detach_all(batch):
            return Requeue(batches=(batch,), after_s=after_s)
        return Requeue(mails=batch.pending, after_s=after_s)

    def _keep_for_retry(self, batch: Batch, error: FlowstateError) -> Requeue:
        """The outcome is unknown. The stored request stays: whoever tries again sends the same bytes.

        It counts as an attempt of each job, unless the provider fails for all: then bulk emails wait in the queue.
        """
        self._gate.cancel_probe()
        self._gate.circuit_breaker.record_failure(error.reason, is_probe=batch.is_probe)
        batch.maybe_delivered = error.outcome_unknown = True
        waits = self._gate.circuit_breaker.is_open and not batch.is_probe
        for mail in batch.pending:
            if mail.urgent or not waits:
                mail.fail(error)
        return Requeue(batches=(batch,))

    async def _wait_for_network(self, batch: Batch, error: ProviderUnreachableError) -> Requeue:
        """The request could not start for a reason on this side: not an attempt, and soon tried again."""
        self._gate.cancel_probe()
        self._gate.circuit_breaker.record_failure(error.reason, is_probe=batch.is_probe)
        batch.maybe_delivered = batch.maybe_delivered or error.maybe_sent
        if batch.maybe_delivered or not batch.complete or not await self._detach_all(batch):
            return Requeue(batches=(batch,), after_s=NETWORK_RETRY_S)
        return Requeue(mails=batch.pending, after_s=NETWORK_RETRY_S)

    async def _send_again(self, batch: Batch, error: RateLimitedError | RequestInProgressError) -> Requeue:
        """The same request again, later; not an attempt of its jobs."""
        after_s = error.after_ms / 1000
        if isinstance(error, RequestInProgressError):
            batch.maybe_delivered = True
            batch.waits += 1
            return Requeue(batches=(batch,), after_s=min(after_s * batch.waits, MAX_WAIT_S))
        if after_s >= MIN_LOGGED_WAIT_S:
            log.warning(
                "provider_rate_limited",
                retry_after_s=after_s,
                remedy="if this happens regularly, ask the provider for a higher rate",
            )
        shared = await self._ignore_unavailable(self._rate_limiter.back_off(error.after_ms))
        return Requeue(batches=(batch,), after_s=0.0 if shared else after_s)

    async def _abandon(self, batch: Batch) -> Requeue:
        """The request is so old that the provider may have forgotten the key: its bytes must not be sent again."""
        self._gate.cancel_probe()
        if not batch.maybe_delivered and batch.complete and await self._detach_all(batch):
            return Requeue(mails=batch.pending)
        batch.fail(PermanentError(OUTCOME_UNKNOWN))
        return NO_REQUEUE

    def expire(self, batch: Batch) -> None:
        """Drop the emails of an earlier try, if all that have arrived are expired: as in `_remove_expired`."""
        now_ms, pending = self._clock.now_ms(), batch.pending
        if all(mail.expired(now_ms) for mail in pending):
            for mail in pending:
                mail.fail(expired_error(maybe_sent=True))

    async def _remove_expired(self, batch: Batch) -> bool:
        """Drop codes that expired while their request waited. False if it is sent as it is, even with some in it."""
        now_ms = self._clock.now_ms()
        expired = [mail for mail in batch.pending if mail.expired(now_ms)]
        if not expired:
            return False
        if len(expired) < len(batch.pending) and (
            batch.maybe_delivered or not batch.complete or not await self._detach_all(batch)
        ):
            return False
        self._gate.cancel_probe()
        for mail in expired:
            mail.fail(expired_error(maybe_sent=batch.maybe_delivered))
        return True

    async def _detach_all(self, batch: Batch) -> bool:
        """Delete the stored request, so that its emails may be grouped anew."""
        stored_request = batch.stored_request
        if stored_request is None or not await self._detach(stored_request.id, batch.pending):
            return False
        for mail in batch.mails:
            mail.stored_request_id = None
            mail.detached_from += (stored_request.id,)
        return True

    async def _detach_rejected(self, mails: Sequence[OutgoingMail]) -> None:
        """Rejected emails were certainly not sent, so a manual retry must make a new request.

        Detaching all in one call fails if another worker owns one of the jobs; then each is detached by itself.
        """
        stored_request_id = mails[0].stored_request_id
        if stored_request_id is None or await self._detach(stored_request_id, mails):
            return
        for mail in mails:
            await self._detach(stored_request_id, [mail])

    async def _detach(self, stored_request_id: str, mails: Sequence[OutgoingMail]) -> bool:
        """Retry until Redis responds: no result may be reported, and no new request made, before this is written."""
        while True:
            aborted = {mail.job.id for mail in mails if mail.done}  # while Redis did not respond
            try:
                detached = await self._request_store.detach(stored_request_id, [mail.job.id for mail in mails], aborted)
                break
            except StoreUnavailableError:
                await asyncio.sleep(REDIS_RETRY_S)
        if detached:
            await forget_members(self._records, stored_request_id, mails)
        return detached

    async def _ignore_unavailable(self, call: Awaitable[object]) -> bool:
        """Share information through Redis; while Redis is unavailable, no other daemon starts requests either."""
        try:
            await call
        except StoreUnavailableError as outage:
            log.warning("store_unavailable", service="batch_sender", reason=outage.reason)
            return False
        return True


def _halves(batch: Batch, error: FlowstateError) -> Requeue:
    """Two requests instead of one: this finds the email that the provider does not accept."""
    pending = batch.pending
    log.warning("batch_rejected", mails=len(pending), reason=error.reason)
    middle = len(pending) // 2
    return Requeue(batches=(Batch(pending[:middle]), Batch(pending[middle:])))


def _sample_rejected(rejected: Sequence[tuple[OutgoingMail, Result]]) -> Requeue:
    """Every email of a batch was rejected: the cause may be the account, which only a single request reveals."""
    others = [(mail, PermanentError(result.reason)) for mail, result in rejected[1:] if isinstance(result, Rejected)]
    return Requeue(sample=rejected[0][0], others=others)


class ResumedBatches:
    """Stored requests of earlier tries, by id: their emails arrive one by one and are sent in the same request."""

    def __init__(
        self, request_store: RequestStore, batch_sender: BatchSender, enqueue: Callable[[Batch], None]
    ) -> None:
        self._request_store = request_store
        self._batch_sender = batch_sender
        self._enqueue = enqueue
        self._batches: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, mail: OutgoingMail, stored_request_id: str) -> None:
        """Send an email in its stored request, together with the other members that arrive before it is sent."""
        mail.stored_request_id, mail.maybe_sent = stored_request_id, True
        batch = self._batches.get(stored_request_id)
        # An urgent email does not join a bulk batch that already waits in the queue: that would not move it forward.
        if batch is not None and batch.pending and (batch.urgent or not mail.urgent):
            batch.mails.append(mail)
        else:
            self._batches[stored_request_id] = batch = Batch([mail], maybe_delivered=True)
            task = asyncio.create_task(self._load(stored_request_id, batch), name="resume")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        mail.result.add_done_callback(partial(self._forget_if_done, stored_request_id, batch))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _load(self, stored_request_id: str, batch: Batch) -> None:
        try:
            stored_request = await self._request_store.find(stored_request_id)
        except FlowstateError as error:
            batch.fail(error)
            return
        if stored_request is None or stored_request.response is None:
            self._batch_sender.expire(batch)
        if stored_request is not None and stored_request.response is None:
            batch.stored_request = stored_request
            self._park_unknown(batch, stored_request.members)
            self._enqueue(batch)
            return
        results: dict[JobRef, Result] = {}
        if stored_request is not None and stored_request.response is not None:
            results = dict(zip(stored_request.members, decode_results(stored_request.response), strict=True))
        while batch.pending:  # other members may join while these are resolved
            self._park_unknown(batch, results)
            await self._batch_sender.resolve(batch.pending, results)

    def _park_unknown(self, batch: Batch, known: Container[JobRef]) -> None:
        """Emails that the stored request does not contain may or may not have been sent."""
        for mail in batch.pending:
            if mail.job_ref not in known:
                mail.fail(PermanentError(OUTCOME_UNKNOWN))

    def _forget_if_done(self, stored_request_id: str, batch: Batch, _result: asyncio.Future[Accepted]) -> None:
        if not batch.pending and self._batches.get(stored_request_id) is batch:
            del self._batches[stored_request_id]

"""Prepares a batch to be sent: builds the request, stores it in Redis, then records it in Postgres.

The order matters. Redis numbers the requests of each job; because the record is written second, a number that Postgres
has and Redis has not proves that Redis has lost its newest writes. Such an email is not put into another request: it
is settled by what became of the earlier one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

import structlog

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    EarlierRequestError,
    FlowstateError,
    LockLostError,
    MaybeSentError,
    PermanentError,
    StaleDecisionError,
    StoreUnavailableError,
)
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.database.ledger import REQUESTS_KEPT
from flowstate_daemon.database.pool import POSTGRES_REMEDY
from flowstate_daemon.database.request_records import QUERY_TIMEOUT_S, RequestRecord, RequestRecords
from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.sending.batch import OUTCOME_UNKNOWN, Batch, OutgoingMail, idempotency_key
from flowstate_daemon.sending.request_store import RequestStore
from flowstate_daemon.sending.stored_request import JobRef, StoredRequest

log = structlog.get_logger()

REDIS_RETRY_S = 0.5
MIN_PAUSE_S, MAX_PAUSE_S = (
    0.5,
    3.0,
)  # before jobs that could not be recorded return to the queue; below a shutdown's time
URGENT_TIMEOUT_S = 1.0  # a code does not wait longer for Postgres
# From the check of its locks until a request is recorded. A scheduled email that is in no record so long after Redis
# has lost its job gets a new one (`scheduler/reconciler.py`): a process that was stopped in between must not send it.
MAX_PREPARATION_S = 120.0
# How long the process that made a request may take to learn and record its outcome.
OUTCOME_WAIT_MS = 120_000
OUTCOME_POLL_MS = 2_000
OUTCOME_PENDING = "the outcome of an earlier request is not known yet"
LOCK_LOST = "another worker owns the job by now"
# The records of older requests may be deleted; for older jobs the ledger is asked.
REMEDY = "Redis lost its newest writes in a failover or a crash: reduce its replication lag, or use appendfsync always"
OLD_JOB_MS = int(REQUESTS_KEPT.total_seconds() * 1000) - 3_600_000


class RequestRecorder:
    """`records` is None without Postgres: then only the memory of this process knows what Redis has lost."""

    def __init__(
        self,
        gateway: Gateway,
        request_store: RequestStore,
        records: RequestRecords | None,
        resume: Callable[[OutgoingMail, str], None],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """`resume` sends an email with the stored request that has this id."""
        self._gateway = gateway
        self._request_store = request_store
        self._records = records
        self._resume = resume
        self._metrics = metrics
        self._clock = clock
        self._pause = Backoff(MIN_PAUSE_S, MAX_PAUSE_S)

    async def prepare(self, batch: Batch) -> bool:
        """Store and record the request of a batch before this process sends it.

        Leaves out jobs whose lock was lost and emails that an earlier request contained. False if no email is left.
        """
        try:
            if batch.stored_request is not None:
                await self._check_resumed(batch, batch.stored_request)
            else:
                await self._settle_old_jobs(batch)
            while batch.stored_request is None and batch.pending:
                await self._prepare_once(batch)
        except StoreUnavailableError as outage:
            # Without Postgres it is unknown whether these were sent: they wait in the queue, as at their lookups.
            self._give_back(batch, batch.pending, outage)
        else:
            if batch.pending:
                self._pause.reset()
        batch.recorded = True
        return bool(batch.pending)

    async def _prepare_once(self, batch: Batch) -> None:
        mails, began_at = batch.pending, self._clock.monotonic()
        if known := self._find_recent({mail.job_ref: mail.requests for mail in mails}):
            await self._settle_all(batch, known)
            return
        try:
            stored_request = await self._build_request(mails)
        except PermanentError:
            return
        is_stored, refused = await self._store(stored_request, mails)
        if refused:
            await self._fail_refused(mails, refused)
        if not is_stored:
            return
        earlier = await self._record_first(stored_request, batch, began_at)
        if earlier is None:
            return
        if earlier:
            if await self._withdraw(stored_request, mails):
                await self._settle_all(batch, earlier)
            return
        batch.mails, batch.stored_request = mails, stored_request
        for mail, number in zip(mails, stored_request.numbers, strict=True):
            mail.requests, mail.stored_request_id = number, stored_request.id

    async def _record_first(
        self, stored_request: StoredRequest, batch: Batch, began_at: float
    ) -> Mapping[JobRef, RequestRecord] | None:
        """Record a new request, as `_record`. None if it was deleted again.

        While Postgres is unreachable, a request of codes only is sent; bulk emails beside codes wait.
        """
        mails = batch.pending
        bulk = [mail for mail in mails if not mail.urgent]
        try:
            earlier = await self._record(stored_request, mails, urgent=batch.urgent)
        except StoreUnavailableError as outage:
            if bulk:  # the record may have been written, or not
                await self._withdraw(stored_request, mails)
                self._give_back(batch, bulk, outage)
                return None
            log.warning("request_not_recorded", mails=len(mails), reason=outage.reason, remedy=POSTGRES_REMEDY)
            earlier = {}
        if self._clock.monotonic() - began_at > MAX_PREPARATION_S:
            await self._withdraw(stored_request, mails)
            for mail in mails:
                mail.fail(StaleDecisionError("recording the request took too long"))
            return None
        return earlier

    def _give_back(self, batch: Batch, mails: Sequence[OutgoingMail], outage: StoreUnavailableError) -> None:
        """Return these jobs to the queue, but not at once: they would be claimed, rendered and stored again and again.

        Codes do not wait: other slots are reserved for them.
        """
        batch.mails = [mail for mail in batch.mails if mail not in mails]
        pause_s, loop = self._pause.next_s(), asyncio.get_running_loop()
        for mail in mails:
            loop.call_later(pause_s, mail.fail, outage)

    async def _check_resumed(self, batch: Batch, stored_request: StoredRequest) -> None:
        """Record a stored request of an earlier try, whose process may have died before it recorded it.

        Should a later request have contained one of its emails, this one was rejected, and Redis has lost that: its
        bytes must not be sent any more.
        """
        if len(stored_request.numbers) != len(stored_request.members):
            return  # an older version stored it
        # Of all its members: this process may have one of the jobs, but sends all emails.
        numbers = dict(zip(stored_request.members, stored_request.numbers, strict=True))
        began_at = self._clock.monotonic()
        if self._records is not None:
            _fail_lost(batch.mails, await self._request_store.find_lost([mail.job.id for mail in batch.pending]))
        mails = batch.pending
        if not mails:
            return
        try:
            earlier = self._find_recent(numbers) or await self._record(
                stored_request, mails, urgent=batch.urgent, resumed=True
            )
        except StoreUnavailableError as outage:
            if not batch.urgent:  # all bytes of a stored request are sent, or none
                raise
            log.warning("request_not_recorded", mails=len(mails), reason=outage.reason, remedy=POSTGRES_REMEDY)
            earlier = {}
        if self._clock.monotonic() - began_at > MAX_PREPARATION_S:
            batch.fail(StaleDecisionError("recording the request took too long"))
            return
        pending = {mail.job_ref for mail in batch.pending}
        # An email of another process that the provider rejected does not keep the others from their results.
        rejected = {job for job, record in earlier.items() if record.free and record.request_id == stored_request.id}
        if any(job in pending or job not in rejected for job in earlier):
            await self._leave(batch, stored_request, earlier)
        else:
            await self._request_store.remember(stored_request)

    async def _leave(
        self, batch: Batch, stored_request: StoredRequest, earlier: Mapping[JobRef, RequestRecord]
    ) -> None:
        """Settle the emails of a stored request that must not be sent. Raises StoreUnavailableError.

        Those that it certainly did not send wait for another request.
        """
        mails, all_bulk = batch.pending, batch.complete and not batch.urgent
        if self._records is not None:
            recipients = {mail.job_ref: mail.email.to for mail in mails if mail.job_ref not in earlier}
            earlier = {**await self._records.find(recipients), **earlier}
        unsent, elsewhere, unknown = [], {}, []
        for mail in mails:
            job, number, record = mail.job_ref, stored_request.number_of(mail.job_ref), earlier.get(mail.job_ref)
            if (
                record is None
                or number is None
                or record.number < number
                or _is_next_free(record, stored_request, number, resumed=True)
            ):
                # Not recorded. Only a request with a code is sent without a record, and another process may have that.
                is_unsent = self._records is not None and number is not None and all_bulk
            elif record.request_id != stored_request.id and not record.free:
                elsewhere[job] = record
                continue
            elif not record.free:  # the process that has sent this request may still record the outcome
                unknown.append((mail, record))
                continue
            else:
                is_unsent = record.request_id == stored_request.id
            if is_unsent:
                unsent.append(mail)
            else:
                mail.fail(MaybeSentError(OUTCOME_UNKNOWN, requests=max(mail.requests, number or 0)))
        detached = await self._request_store.detach(stored_request.id, [mail.job.id for mail in unsent])
        for mail in unsent:
            mail.fail(StaleDecisionError("its request was not sent") if detached else LockLostError(LOCK_LOST))
        batch.stored_request = None
        for mail, record in unknown:
            await self._settle(mail, record, None)
        await self._settle_all(batch, elsewhere)
        batch.fail(StaleDecisionError("its request must not be sent"))  # what has joined meanwhile still refers to it

    def _find_recent(self, numbers: Mapping[JobRef, int]) -> Mapping[JobRef, RequestRecord]:
        """Requests of this process that contained these jobs and have a higher number."""
        found = {}
        for job, number in numbers.items():
            latest = self._request_store.recent.find(job)
            recent = self._request_store.recent.get(latest[0]) if latest is not None else None
            if latest is not None and recent is not None and latest[1] > number:
                request = recent.request
                found[job] = RequestRecord(request.id, request.key, latest[1], request.saved_at)
        return found

    async def _settle_old_jobs(self, batch: Batch) -> None:
        """A job that is older than all records, and that no request has contained: is it from an old copy of Redis?"""
        now_ms = self._clock.now_ms()
        old = [mail for mail in batch.pending if not mail.requests and now_ms - mail.job.timestamp_ms > OLD_JOB_MS]
        if not old or self._records is None:
            return
        try:
            sent = await self._records.find_sent({mail.job_ref: mail.email.to for mail in old})
        except StoreUnavailableError:
            if not batch.urgent:
                raise
            return
        for mail in old:
            if mail.job_ref in sent:
                mail.accept(Accepted(sent[mail.job_ref], self._gateway.name))

    async def _build_request(self, mails: Sequence[OutgoingMail]) -> StoredRequest:
        """The request for these emails. Raises PermanentError after failing an email that cannot be encoded."""
        encoded: list[bytes] = []
        for mail in mails:
            try:
                encoded.append(mail.encoded(self._gateway.encode))
            except PermanentError as error:
                mail.fail(error)
                raise
        members = tuple(mail.job_ref for mail in mails)
        numbers = tuple(mail.requests + 1 for mail in mails)
        if len(encoded) == 1:
            path, body, key = self._join(encoded, members)
        else:
            path, body, key = await asyncio.to_thread(self._join, encoded, members)
        now_ms = self._clock.now_ms()
        return StoredRequest(uuid4().hex, path, body, key, members, saved_at=now_ms, numbers=numbers)

    def _join(self, encoded: Sequence[bytes], members: Sequence[JobRef]) -> tuple[str, bytes, str]:
        path, body = self._gateway.build_request(encoded)
        return path, body, idempotency_key(path, body, members)

    async def _store(self, stored_request: StoredRequest, mails: Sequence[OutgoingMail]) -> tuple[bool, set[str]]:
        """Save a request, trying until Redis responds. Returns whether it is saved, and which jobs were refused.

        A call that Redis executed although its reply was lost has bound the jobs to these bytes, and whoever takes one
        of the jobs sends them: then no other request may be made of these emails.
        """
        in_doubt = False
        while True:
            # A run that was aborted meanwhile knows nothing about its job any more: this process has claimed it again.
            detached_from = {mail.job_ref: mail.detached_from for mail in mails if not mail.done}
            try:
                refused = await self._request_store.save(stored_request, detached_from)
                saved = not refused or (in_doubt and await self._request_store.load(stored_request.id) is not None)
            except StoreUnavailableError as outage:
                if not in_doubt:
                    log.warning("request_not_stored", mails=len(stored_request.members), reason=outage.reason)
                in_doubt = True
                await asyncio.sleep(REDIS_RETRY_S)
                continue
            if not refused:
                self._metrics.observe_batch_size(len(stored_request.members))
            return saved, refused

    async def _fail_refused(self, mails: Sequence[OutgoingMail], refused: Container[str]) -> None:
        """Give up emails whose jobs cannot be saved in another request. Raises StoreUnavailableError.

        A job that this worker still owns is in a request of an aborted run. It returns to the queue, and is sent with
        that one.
        """
        open_mails = [mail for mail in mails if mail.job.id in refused and not mail.done]
        _fail_lost(open_mails, await self._request_store.find_lost([mail.job.id for mail in open_mails]))
        for mail in open_mails:
            mail.fail(StaleDecisionError("an earlier run has put it into another request"))

    async def _record(
        self, stored_request: StoredRequest, mails: Sequence[OutgoingMail], *, urgent: bool, resumed: bool = False
    ) -> Mapping[JobRef, RequestRecord]:
        """Record the request, and return the latest requests of emails that were in another one unknown to Redis.

        Raises StoreUnavailableError, for a batch with a code after URGENT_TIMEOUT_S.
        """
        if self._records is None:
            return {}
        request = stored_request.id, stored_request.key, stored_request.saved_at
        members, numbers = stored_request.members, stored_request.numbers
        wait_s = URGENT_TIMEOUT_S if urgent else QUERY_TIMEOUT_S
        try:
            async with asyncio.timeout(wait_s):
                if resumed:
                    await self._records.mark_resumed(*request, wait_s=wait_s)
                while lost := await self._records.record(*request, members, numbers, wait_s=wait_s):
                    recipients = dict.fromkeys(lost, "")  # nothing is asked about emails that another process has
                    recipients |= {mail.job_ref: mail.email.to for mail in mails if mail.job_ref in lost}
                    found = await self._find_earlier(stored_request, recipients)
                    current = dict(zip(members, numbers, strict=True))
                    if not found or not all(
                        _is_next_free(record, stored_request, current[job], resumed=resumed)
                        for job, record in found.items()
                    ):
                        return found
                    numbers = tuple(found[job].number + 1 if job in found else current[job] for job in members)
                return {}
        except (StoreUnavailableError, TimeoutError) as error:
            raise StoreUnavailableError(str(error) or "Postgres is slow") from error

    async def _find_earlier(
        self, stored_request: StoredRequest, recipients: Mapping[JobRef, str]
    ) -> Mapping[JobRef, RequestRecord]:
        """The latest requests of these jobs, which are in another one than this. Raises StoreUnavailableError.

        The same key means the same bytes for the same jobs: the provider recognizes this request. It is sent under
        the other one's record, which the process that wrote it must no longer take back.
        """
        assert self._records is not None
        found = await self._free_withdrawn(await self._records.find(recipients))
        if found.keys() != recipients.keys():
            raise StoreUnavailableError("Postgres: records were deleted meanwhile")
        if len(found) < len(stored_request.members) or not _is_same(found, stored_request):
            return found
        for request_id, saved_at_ms in sorted({(one.request_id, one.saved_at_ms) for one in found.values()}):
            await self._records.mark_resumed(request_id, stored_request.key, saved_at_ms)
        again = await self._records.find(recipients)
        is_kept = found.keys() == again.keys() and _is_same(again, stored_request)
        return {} if is_kept and _ids(found) == _ids(again) else {**found, **again}

    async def _free_withdrawn(self, found: Mapping[JobRef, RequestRecord]) -> dict[JobRef, RequestRecord]:
        """The same, with the emails freed of requests that were never sent. Raises StoreUnavailableError."""
        assert self._records is not None
        freed: dict[JobRef, RequestRecord] = {}
        for request_id in sorted({record.request_id for record in found.values() if not record.free}):
            jobs = [job for job, record in found.items() if record.request_id == request_id]
            is_withdrawn = await self._request_store.is_withdrawn(request_id)
            if is_withdrawn and await self._records.forget_withdrawn(request_id, jobs):
                freed |= {job: replace(found[job], free=True) for job in jobs}
        return {**found, **freed}

    async def _withdraw(self, stored_request: StoredRequest, mails: Sequence[OutgoingMail]) -> bool:
        """Delete a request that this process is not going to send. Retries until Redis responds.

        Its number is not used up: with another one the emails would no longer be compared with an earlier request that
        Redis has lost. Should it be recorded, or recorded later, the record does not count. False if another worker has
        one of the jobs with the request, and may send it.
        """
        while True:
            open_mails = [mail for mail in mails if not mail.done]
            numbers = {mail.job_ref: mail.requests for mail in open_mails}
            try:
                lost = await self._request_store.withdraw(stored_request, numbers)
                break
            except StoreUnavailableError:
                await asyncio.sleep(REDIS_RETRY_S)
        for mail in open_mails:
            mail.detached_from += (stored_request.id,)
        _fail_lost(open_mails, {mail.job.id for mail in open_mails} if lost is None else lost)
        if lost is not None and self._records is not None:
            await _forget(self._records.forget_withdrawn, stored_request.id, mails)
        return lost is not None

    async def _settle_all(self, batch: Batch, earlier: Mapping[JobRef, RequestRecord]) -> None:
        """Settle emails by what became of their earlier requests; the rest of the batch goes on.

        Emails that were certainly not sent go on too, with the next number.
        """
        settled = []
        for mail in batch.pending:
            record = earlier.get(mail.job_ref)
            if record is not None and record.free:
                mail.requests = record.number
            elif record is not None:
                settled.append(mail)
        if not settled:
            return
        batch.mails = [mail for mail in batch.mails if mail not in settled]
        log.warning("redis_lost_requests", mails=len(settled), remedy=REMEDY)
        stored: dict[str, StoredRequest | None] = {}
        for mail in settled:
            record = earlier[mail.job_ref]
            try:
                if record.provider_id is None and record.request_id not in stored:
                    stored[record.request_id] = await self._request_store.find(record.request_id)
                await self._settle(mail, record, stored.get(record.request_id))
            except FlowstateError as error:
                mail.fail(error)

    async def _settle(self, mail: OutgoingMail, record: RequestRecord, stored_request: StoredRequest | None) -> None:
        """Settle an email by the latest request that contained it, or send it with that one.

        The process that has sent it may record the outcome until OUTCOME_WAIT_MS later. Raises StoreUnavailableError.
        """
        if record.provider_id is not None:
            mail.accept(Accepted(record.provider_id, self._gateway.name))
        elif stored_request is not None:
            if stored_request.response is None and not await self._request_store.adopt(
                stored_request, mail.job, record.number
            ):
                mail.fail(LockLostError(LOCK_LOST))
                return
            mail.requests = record.number
            self._resume(mail, record.request_id)
        elif self._clock.now_ms() - record.saved_at_ms < OUTCOME_WAIT_MS:
            mail.fail(EarlierRequestError(OUTCOME_PENDING, after_ms=OUTCOME_POLL_MS))
        else:
            mail.fail(MaybeSentError(OUTCOME_UNKNOWN, requests=record.number))


def _is_next_free(record: RequestRecord, stored_request: StoredRequest, number: int, *, resumed: bool) -> bool:
    """Whether the request may have the number after that of this record instead of its own `number`.

    A resumed request may have been recorded and rejected, unless another one has that very number.
    """
    return record.free and record.request_id != stored_request.id and (not resumed or record.number == number)


def _is_same(found: Mapping[JobRef, RequestRecord], stored_request: StoredRequest) -> bool:
    """Whether all of these jobs are in a request with the same key, which was not taken back."""
    return all(record.key == stored_request.key and not record.free for record in found.values())


def _ids(found: Mapping[JobRef, RequestRecord]) -> set[str]:
    return {record.request_id for record in found.values()}


def _fail_lost(mails: Sequence[OutgoingMail], lost: Container[str]) -> None:
    for mail in mails:
        if mail.job.id in lost:
            mail.fail(LockLostError(LOCK_LOST))


async def forget_members(records: RequestRecords | None, request_id: str, mails: Sequence[OutgoingMail]) -> None:
    """Free emails that were certainly not sent for another request. If that fails, Redis still knows it."""
    if records is not None:
        await _forget(records.forget, request_id, mails)


async def _forget(forget: Callable[..., Awaitable[object]], request_id: str, mails: Sequence[OutgoingMail]) -> None:
    jobs = [mail.job_ref for mail in mails]
    try:
        async with asyncio.timeout(URGENT_TIMEOUT_S):
            await forget(request_id, jobs, wait_s=URGENT_TIMEOUT_S)
    except (StoreUnavailableError, TimeoutError) as error:
        log.debug("request_not_forgotten", mails=len(jobs), reason=str(error))

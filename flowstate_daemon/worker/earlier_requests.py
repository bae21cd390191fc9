"""Before an email is skipped: was it already sent, in an earlier request that Redis has lost?

Then the job gets that result instead of `skipped`. `sending/request_recorder.py` does the same for emails that may be
sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import EarlierRequestError, MailSkipped, StoreUnavailableError
from flowstate_daemon.database.request_records import RequestRecord, RequestRecords
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.job import unix_ms
from flowstate_daemon.sending.batch import MAYBE_SENT, decode_results
from flowstate_daemon.sending.request_recorder import (
    OLD_JOB_MS,
    OUTCOME_PENDING,
    OUTCOME_POLL_MS,
    OUTCOME_WAIT_MS,
    URGENT_TIMEOUT_S,
)
from flowstate_daemon.sending.request_store import RequestStore
from flowstate_daemon.sending.stored_request import JobRef
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.lookups import BatchLoader

log = structlog.get_logger()

Asked = tuple[JobRef, str]
"""A job and the recipient of its email."""


class EarlierRequests:
    """Looks for earlier requests in the memory of this process and in Postgres."""

    def __init__(
        self, request_store: RequestStore, records: RequestRecords | None, clock: Clock, *, provider: str
    ) -> None:
        """`records` is None without Postgres. `provider` is the name of the gateway that sends."""
        self._request_store = request_store
        self._records = records
        self._clock = clock
        self._provider = provider
        self._loader = BatchLoader("earlier_requests", self._query)

    async def settle(self, run: JobRun, refusal: MailSkipped) -> Accepted:
        """The provider's answer to an earlier request that contained the email of this run.

        While Postgres is unreachable a bulk email waits, a code does not.

        Raises:
            MailSkipped, MailExpired: the refusal, or one that says that the email may have been sent.
            EarlierRequestError: the process that made the request may still learn its outcome.
            StoreUnavailableError: it cannot be found out now.
        """
        job_ref, known = (run.job.id, run.job.timestamp), max(run.job.requests, run.requests())
        record = self._remembered(job_ref, known)
        if record is None or record.provider_id is None:  # another process may have sent the same request again
            record = await self._recorded((job_ref, run.recipient), urgent=run.urgent) or record
        if record is not None and record.provider_id is not None:
            return Accepted(record.provider_id, self._provider)
        if record is None or record.free or record.number <= known or await self._is_withdrawn(record, job_ref):
            raise refusal
        if self._clock.now_ms() - record.saved_at_ms < OUTCOME_WAIT_MS:
            raise EarlierRequestError(OUTCOME_PENDING, after_ms=OUTCOME_POLL_MS)
        if refusal.reason.endswith(MAYBE_SENT.format(reason="")):
            raise refusal
        raise type(refusal)(MAYBE_SENT.format(reason=refusal.reason))

    async def close(self) -> None:
        await self._loader.close()

    def _remembered(self, job: JobRef, known: int) -> RequestRecord | None:
        """A request of this process with a higher number than `known`, unless the provider rejected the email."""
        recent = self._request_store.recent
        request_id, number = recent.find(job) or ("", 0)
        found = recent.get(request_id)
        if found is None or number <= known:
            return None
        request, provider_id = found.request, None
        if request.response is not None:
            result = decode_results(request.response)[request.members.index(job)]
            if not isinstance(result, Accepted):
                return None
            provider_id = result.provider_id
        return RequestRecord(request.id, request.key, number, request.saved_at, provider_id)

    async def _is_withdrawn(self, record: RequestRecord, job: JobRef) -> bool:
        """Whether no process has sent this request or is going to. Raises StoreUnavailableError."""
        if self._records is None or not await self._request_store.is_withdrawn(record.request_id):
            return False
        return await self._records.forget_withdrawn(record.request_id, [job], wait_s=URGENT_TIMEOUT_S)

    async def _recorded(self, asked: Asked, *, urgent: bool) -> RequestRecord | None:
        if self._records is None:
            return None
        if not urgent:
            return await self._loader.load_with_retry(asked)
        try:
            return await self._loader.load_soon(asked)
        except StoreUnavailableError as outage:
            log.debug("earlier_request_lookup_failed", job_id=asked[0][0], reason=outage.reason)
            return None

    async def _query(self, asked: Sequence[Asked]) -> Mapping[Asked, RequestRecord | None]:
        """Of jobs that are older than all records, only what the ledger has."""
        assert self._records is not None
        found = await self._records.find(dict(asked))
        oldest_ms = self._clock.now_ms() - OLD_JOB_MS
        old = {job: to for job, to in asked if job not in found and unix_ms(job[1]) < oldest_ms}
        sent = await self._records.find_sent(old) if old else {}
        found |= {job: RequestRecord("", "", 0, 0, provider_id) for job, provider_id in sent.items()}
        return {(job, to): found.get(job) for job, to in asked}

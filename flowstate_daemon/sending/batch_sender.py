"""Takes one sealed load to the provider and sees to what its answer means for each of its mails.

Called by the bus, in a task for each request. What has to go again is handed back to it. The rules that keep
mails from being sent twice: what may have reached the provider goes again as the same bytes under the same key;
a request is only broken up when the provider has surely not taken it and all its jobs are still in our hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    AlreadyAcceptedError,
    FlowstateError,
    MailExpired,
    PermanentError,
    ProviderRefusedError,
    QuotaExceededError,
    RateLimitedError,
    RequestInProgressError,
    StoreUnavailableError,
)
from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.delivery.gateway import Delivery, Gateway, Rejected, Result
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.sending.batch import (
    EXPIRED_REASON,
    OUTCOME_UNKNOWN,
    Batch,
    JobRef,
    OutgoingMail,
    decode_results,
    encode_results,
)
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.request_store import TTL_MS, RequestStore, StoredRequest
from flowstate_daemon.sending.send_gate import SendGate

log = structlog.get_logger()

ALREADY_ACCEPTED_ID = "accepted-earlier"
REDIS_RETRY_S = 0.5
MAX_WAIT_S = 30.0
MIN_LOGGED_WAIT_S = 5.0  # shorter rests are everyday
QUOTA_RETRY_S = 10.0  # a code asks again in this time whether the quota is really used up


@dataclass(frozen=True, slots=True)
class Requeue:
    """What goes onto the bus again, after a rest: loads as they are, parcels to be put together anew.

    `sample` is a mail that goes alone and decides for the `others`, if it is refused too. `answered`: the provider has
    said something.
    """

    batches: Sequence[Batch] = ()
    mails: Sequence[OutgoingMail] = ()
    after_s: float = 0.0
    sample: OutgoingMail | None = None
    others: Sequence[tuple[OutgoingMail, PermanentError]] = ()
    answered: bool = True


NO_REQUEUE = Requeue()
UNANSWERED = Requeue(answered=False)


class BatchSender:
    """One provider, its lane and its pace; the envelopes of what is under way."""

    def __init__(
        self,
        gateway: Gateway,
        request_store: RequestStore,
        rate_limiter: RateLimiter,
        gate: SendGate,
        right_of_way: UrgentPriority,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._request_store = request_store
        self._rate_limiter = rate_limiter
        self._gate = gate
        self._right_of_way = right_of_way
        self._clock = clock

    async def send(self, load: Batch) -> Requeue:
        """Make the request and settle its mails; returns what must go again."""
        stored_request = load.stored_request
        assert stored_request is not None, "only sealed loads travel"
        if self._clock.now_ms() - stored_request.saved_at > TTL_MS:
            return await self._too_old(load)
        if await self._without_late(load):
            return Requeue(mails=load.pending, answered=False)
        for mail in load.mails:
            self._right_of_way.finished(mail.job.id)
            mail.sent_at = mail.sent_at or self._clock.monotonic()
        try:
            delivery = await self._gateway.send(
                stored_request.path, stored_request.body, stored_request.key, len(stored_request.members)
            )
        except AlreadyAcceptedError:
            log.warning("already_accepted", mails=len(stored_request.members))
            self._gate.record_accepted()
            earlier = Accepted(ALREADY_ACCEPTED_ID, self._gateway.name)
            return await self._delivered(load, Delivery((earlier,) * len(stored_request.members)))
        except PermanentError as final:
            self._gate.record_accepted()  # the request is refused, so the account is not
            return await self._refused(load, final)
        except (QuotaExceededError, ProviderRefusedError) as closed:
            return await self._not_now(load, closed)
        except (RateLimitedError, RequestInProgressError) as wait:
            self._gate.cancel_probe()
            return await self._again(load, wait)
        except FlowstateError as unknown:
            return self._unanswered(load, unknown)
        self._gate.record_accepted()
        return await self._delivered(load, delivery)

    async def store(self, stored_request: StoredRequest) -> tuple[bool, set[str]]:
        """Write a request down: whether it stands, and whose jobs are no longer ours. Until Redis has answered.

        A call that was executed without being heard has bound its mails to these bytes, and whoever takes one of them
        up sends them: then no other request may be made of them.
        """
        in_doubt = False
        while True:
            try:
                lost = await self._request_store.save(stored_request)
                return not lost or (in_doubt and await self._request_store.load(stored_request.id) is not None), lost
            except StoreUnavailableError as outage:
                if not in_doubt:
                    log.warning("request_not_stored", mails=len(stored_request.members), reason=outage.reason)
                in_doubt = True
                await asyncio.sleep(REDIS_RETRY_S)

    async def resolve(self, mails: Sequence[OutgoingMail], results: Mapping[JobRef, Result]) -> None:
        """End parcels of one request by what is known of their mails; the accepted first, they need no writing."""
        refused: list[tuple[OutgoingMail, Rejected]] = []
        async for mail in self._right_of_way.chunked(mails):
            result = results[mail.job_ref]
            if isinstance(result, Accepted):
                mail.accept(result)
            else:
                refused.append((mail, result))
        if refused:
            await self._freed([mail for mail, _ in refused])
        for mail, result in refused:
            mail.fail(PermanentError(result.reason))

    async def _delivered(self, load: Batch, delivery: Delivery) -> Requeue:
        stored_request = load.stored_request
        assert stored_request is not None
        results = dict(zip(stored_request.members, delivery.results, strict=True))
        refused = [result for result in delivery.results if isinstance(result, Rejected)]
        if len(results) > 1 and len(refused) == len(results) and load.complete and await self._broken_up(load):
            return _sampled([(mail, results[mail.job_ref]) for mail in load.pending])
        if len(results) > 1:
            # For members that are in other hands, or come back after a crash.
            await self._ignore_unavailable(
                self._request_store.save_response(stored_request.id, encode_results(delivery.results))
            )
        if any(not mail.urgent for mail in load.mails):
            self._gate.quota_restored()
        while load.pending:  # others may join while these are settled
            await self.resolve(load.pending, results)
        return NO_REQUEUE

    async def _refused(self, load: Batch, final: PermanentError) -> Requeue:
        """Nothing of it was sent. Halves find the mail that is at fault, and send the others."""
        if not load.complete or not await self._broken_up(load):
            load.fail(final)
            return NO_REQUEUE
        live = load.pending
        if len(live) <= 1:
            load.fail(final)
            return NO_REQUEUE
        log.warning("batch_rejected", mails=len(live), reason=final.reason)
        middle = len(live) // 2
        return Requeue(batches=(Batch(live[:middle]), Batch(live[middle:])))

    async def _not_now(self, load: Batch, closed: QuotaExceededError | ProviderRefusedError) -> Requeue:
        """Nothing was processed, nor will it be for some time: codes must not be tied to what waits."""
        after_s = 0.0
        if isinstance(closed, QuotaExceededError):
            self._gate.quota_exceeded(closed.reason)
            after_s = QUOTA_RETRY_S
            await self._ignore_unavailable(self._rate_limiter.pause_bulk(closed.until_ms, closed.reason))
        else:
            self._gate.block(closed.reason)
        if load.maybe_delivered or not load.complete or not await self._broken_up(load):
            return Requeue(batches=(load,), after_s=after_s)
        return Requeue(mails=load.pending, after_s=after_s)

    def _unanswered(self, load: Batch, unknown: FlowstateError) -> Requeue:
        """Nobody knows what became of it. Fields and envelope stay: whoever tries again sends the same bytes.

        An attempt of each job, unless it is the provider's illness and not the job's: then bulk waits on the bus.
        """
        self._gate.cancel_probe()
        self._gate.circuit_breaker.record_failure(unknown.reason, tried=load.is_probe)
        load.maybe_delivered = True
        waits = self._gate.circuit_breaker.resting and not load.is_probe
        for mail in load.pending:
            if mail.urgent or not waits:
                mail.fail(unknown)
        return Requeue(batches=(load,), answered=False)

    async def _again(self, load: Batch, wait: RateLimitedError | RequestInProgressError) -> Requeue:
        """The same request, later; no attempt of anybody's."""
        after_s = wait.after_ms / 1000
        if isinstance(wait, RequestInProgressError):
            load.maybe_delivered = True
            load.waits += 1
            return Requeue(batches=(load,), after_s=min(after_s * load.waits, MAX_WAIT_S))
        if after_s >= MIN_LOGGED_WAIT_S:
            log.warning(
                "provider_rate_limited",
                retry_after_s=after_s,
                remedy="if this is usual, ask the provider for a higher rate",
            )
        paused = await self._ignore_unavailable(self._rate_limiter.back_off(wait.after_ms))
        return Requeue(batches=(load,), after_s=0.0 if paused else after_s)

    async def _too_old(self, load: Batch) -> Requeue:
        """Held back for so long that the provider may have forgotten the key: the same bytes are no longer safe."""
        self._gate.cancel_probe()
        if not load.maybe_delivered and load.complete and await self._broken_up(load):
            return Requeue(mails=load.pending, answered=False)
        load.fail(PermanentError(OUTCOME_UNKNOWN))
        return UNANSWERED

    async def _without_late(self, load: Batch) -> bool:
        """End codes that ran out while their request waited; False when it goes as it is, even with some in it."""
        now_ms = self._clock.now_ms()
        late = [mail for mail in load.pending if mail.expired(now_ms)]
        if not late:
            return False
        if len(late) < len(load.pending) and (
            load.maybe_delivered or not load.complete or not await self._broken_up(load)
        ):
            return False
        self._gate.cancel_probe()
        for mail in late:
            mail.fail(MailExpired(EXPIRED_REASON))
        return True

    async def _broken_up(self, load: Batch) -> bool:
        """Take the envelope back, so that its mails may travel in other company."""
        if load.stored_request is None or not await self._unsealed(load.stored_request.id, load.pending):
            return False
        for mail in load.mails:
            mail.stored_request_id = None
        return True

    async def _freed(self, refused: Sequence[OutgoingMail]) -> None:
        """Surely not sent, so a human's retry must be a new request: free all but those that another worker has."""
        eid = refused[0].stored_request_id
        if eid is None or await self._unsealed(eid, refused):
            return
        for mail in refused:
            await self._unsealed(eid, [mail])

    async def _unsealed(self, eid: str, mails: Sequence[OutgoingMail]) -> bool:
        """Until Redis has answered: neither a refusal nor a new request may go before this is written."""
        while True:
            try:
                return await self._request_store.detach(eid, [mail.job.id for mail in mails])
            except StoreUnavailableError:
                await asyncio.sleep(REDIS_RETRY_S)

    async def _ignore_unavailable(self, telling: Awaitable[object]) -> bool:
        """Share what was learnt; while Redis is away, nobody else starts requests either."""
        try:
            await telling
        except StoreUnavailableError as outage:
            log.warning("store_unavailable", service="carrier", reason=outage.reason)
            return False
        return True


def _sampled(refused: Sequence[tuple[OutgoingMail, Result]]) -> Requeue:
    """All mails of a batch refused one by one: it may be the account's fault, which only a single request tells."""
    others = [(mail, PermanentError(result.reason)) for mail, result in refused[1:] if isinstance(result, Rejected)]
    return Requeue(sample=refused[0][0], others=others)


class ResumedBatches:
    """The sealed requests that came back, by the id of their envelope."""

    def __init__(self, request_store: RequestStore, batch_sender: BatchSender, enter: Callable[[Batch], None]) -> None:
        self._request_store = request_store
        self._batch_sender = batch_sender
        self._enter = enter
        self._loads: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, mail: OutgoingMail, eid: str) -> None:
        """Let a parcel travel in its envelope, whoever of its company is there already or comes later."""
        mail.stored_request_id = eid
        load = self._loads.get(eid)
        if load is not None and load.pending and (load.urgent or not mail.urgent):
            load.mails.append(mail)
        else:
            self._loads[eid] = load = Batch([mail], maybe_delivered=True)
            task = asyncio.create_task(self._open(eid, load), name="rejoin")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        mail.result.add_done_callback(partial(self._ended, eid, load))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, eid: str, load: Batch) -> None:
        try:
            stored_request = await self._request_store.load(eid)
        except FlowstateError as error:
            load.fail(error)
            return
        if stored_request is not None and stored_request.response is None:
            load.stored_request = stored_request
            self._park_foreign_workers(load, stored_request.members)
            self._enter(load)
            return
        answer = stored_request.response if stored_request is not None else None
        results = (
            dict(zip(stored_request.members, decode_results(answer), strict=True)) if stored_request and answer else {}
        )
        while load.pending:  # others may join while these end
            self._park_foreign_workers(load, results)
            await self._batch_sender.resolve(load.pending, results)

    def _park_foreign_workers(self, load: Batch, known: Container[JobRef]) -> None:
        for mail in load.pending:
            if mail.job_ref not in known:
                mail.fail(PermanentError(OUTCOME_UNKNOWN))

    def _ended(self, eid: str, load: Batch, _result: asyncio.Future[Accepted]) -> None:
        if not load.pending and self._loads.get(eid) is load:
            del self._loads[eid]

"""Takes one sealed load to the provider and sees to what its answer means for each of its mails.

Called by the bus, in a task for each request. What has to go again is handed back to it. The rules that keep
mails from being sent twice: what may have reached the provider goes again as the same bytes under the same key;
a request is only broken up when the provider has surely not taken it and all its jobs are still in our hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    AcceptedEarlier,
    Expired,
    Final,
    FlowstateError,
    InProgress,
    LaneClosed,
    Outage,
    QuotaExhausted,
    Throttled,
)
from flowstate_daemon.delivery.gateway import Delivery, Gateway, Refused, Result
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.envelopes import LIFE_MS, Envelope, Envelopes
from flowstate_daemon.queue.pacer import Pacer
from flowstate_daemon.work.lane import Lane
from flowstate_daemon.work.parcel import PARKED, TOO_LATE, Load, Member, Parcel, pack
from flowstate_daemon.work.right_of_way import RightOfWay

log = structlog.get_logger()

EARLIER = "accepted-earlier"
REDIS_REST_S = 0.5
LONGEST_WAIT_S = 30.0
WORTH_A_LINE_S = 5.0  # shorter rests are everyday
QUOTA_REST_S = 10.0  # a code asks again in this time whether the quota is really used up


@dataclass(frozen=True, slots=True)
class Back:
    """What goes onto the bus again, after a rest: loads as they are, parcels to be put together anew.

    `sample` is a mail that goes alone and decides for the `others`, if it is refused too. `answered`: the provider has
    said something.
    """

    loads: Sequence[Load] = ()
    parcels: Sequence[Parcel] = ()
    after_s: float = 0.0
    sample: Parcel | None = None
    others: Sequence[tuple[Parcel, Final]] = ()
    answered: bool = True


NOTHING = Back()
UNANSWERED = Back(answered=False)


class Carrier:
    """One provider, its lane and its pace; the envelopes of what is under way."""

    def __init__(
        self,
        gateway: Gateway,
        envelopes: Envelopes,
        pacer: Pacer,
        lane: Lane,
        right_of_way: RightOfWay,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._envelopes = envelopes
        self._pacer = pacer
        self._lane = lane
        self._right_of_way = right_of_way
        self._clock = clock

    async def carry(self, load: Load) -> Back:
        """Make the request and settle its mails; returns what must go again."""
        envelope = load.envelope
        assert envelope is not None, "only sealed loads travel"
        if self._clock.now_ms() - envelope.sealed_at > LIFE_MS:
            return await self._too_old(load)
        if await self._without_late(load):
            return Back(parcels=load.live, answered=False)
        for parcel in load.parcels:
            self._right_of_way.leaving(parcel.job.id)
            parcel.left_at = parcel.left_at or self._clock.mono()
        try:
            delivery = await self._gateway.deliver(envelope.path, envelope.body, envelope.key, len(envelope.members))
        except AcceptedEarlier:
            log.warning("accepted_earlier", mails=len(envelope.members))
            self._lane.accepted()
            earlier = Accepted(EARLIER, self._gateway.name)
            return await self._delivered(load, Delivery((earlier,) * len(envelope.members)))
        except Final as final:
            self._lane.accepted()  # the request is refused, so the account is not
            return await self._refused(load, final)
        except (QuotaExhausted, LaneClosed) as closed:
            return await self._not_now(load, closed)
        except (Throttled, InProgress) as wait:
            self._lane.unused()
            return await self._again(load, wait)
        except FlowstateError as unknown:
            return self._unanswered(load, unknown)
        self._lane.accepted()
        return await self._delivered(load, delivery)

    async def seal(self, envelope: Envelope) -> tuple[bool, set[str]]:
        """Write a request down: whether it stands, and whose jobs are no longer ours. Until Redis has answered.

        A call that was executed without being heard has bound its mails to these bytes, and whoever takes one of them
        up sends them: then no other request may be made of them.
        """
        in_doubt = False
        while True:
            try:
                lost = await self._envelopes.seal(envelope)
                return not lost or (in_doubt and await self._envelopes.open(envelope.id) is not None), lost
            except Outage as outage:
                if not in_doubt:
                    log.warning("not_sealed", mails=len(envelope.members), reason=outage.reason)
                in_doubt = True
                await asyncio.sleep(REDIS_REST_S)

    async def settle(self, parcels: Sequence[Parcel], results: Mapping[Member, Result]) -> None:
        """End parcels of one request by what is known of their mails; the accepted first, they need no writing."""
        refused: list[tuple[Parcel, Refused]] = []
        async for parcel in self._right_of_way.in_pieces(parcels):
            result = results[parcel.member]
            if isinstance(result, Accepted):
                parcel.accept(result)
            else:
                refused.append((parcel, result))
        if refused:
            await self._freed([parcel for parcel, _ in refused])
        for parcel, result in refused:
            parcel.fail(Final(result.reason))

    async def _delivered(self, load: Load, delivery: Delivery) -> Back:
        envelope = load.envelope
        assert envelope is not None
        results = dict(zip(envelope.members, delivery.results, strict=True))
        refused = [result for result in delivery.results if isinstance(result, Refused)]
        if len(results) > 1 and len(refused) == len(results) and load.whole and await self._broken_up(load):
            return _sampled([(parcel, results[parcel.member]) for parcel in load.live])
        if len(results) > 1:
            # For members that are in other hands, or come back after a crash.
            await self._told(self._envelopes.answered(envelope.id, pack(delivery.results)))
        if any(not parcel.urgent for parcel in load.parcels):
            self._lane.plenty()
        while load.live:  # others may join while these are settled
            await self.settle(load.live, results)
        return NOTHING

    async def _refused(self, load: Load, final: Final) -> Back:
        """Nothing of it was sent. Halves find the mail that is at fault, and send the others."""
        if not load.whole or not await self._broken_up(load):
            load.fail(final)
            return NOTHING
        live = load.live
        if len(live) <= 1:
            load.fail(final)
            return NOTHING
        log.warning("batch_refused", mails=len(live), reason=final.reason)
        middle = len(live) // 2
        return Back(loads=(Load(live[:middle]), Load(live[middle:])))

    async def _not_now(self, load: Load, closed: QuotaExhausted | LaneClosed) -> Back:
        """Nothing was processed, nor will it be for some time: codes must not be tied to what waits."""
        after_s = 0.0
        if isinstance(closed, QuotaExhausted):
            self._lane.short(closed.reason)
            after_s = QUOTA_REST_S
            await self._told(self._pacer.pause_bulk(closed.until_ms, closed.reason))
        else:
            self._lane.close(closed.reason)
        if load.doubtful or not load.whole or not await self._broken_up(load):
            return Back(loads=(load,), after_s=after_s)
        return Back(parcels=load.live, after_s=after_s)

    def _unanswered(self, load: Load, unknown: FlowstateError) -> Back:
        """Nobody knows what became of it. Fields and envelope stay: whoever tries again sends the same bytes.

        An attempt of each job, unless it is the provider's illness and not the job's: then bulk waits on the bus.
        """
        self._lane.unused()
        self._lane.breaker.ill(unknown.reason, tried=load.tries)
        load.doubtful = True
        waits = self._lane.breaker.resting and not load.tries
        for parcel in load.live:
            if parcel.urgent or not waits:
                parcel.fail(unknown)
        return Back(loads=(load,), answered=False)

    async def _again(self, load: Load, wait: Throttled | InProgress) -> Back:
        """The same request, later; no attempt of anybody's."""
        after_s = wait.after_ms / 1000
        if isinstance(wait, InProgress):
            load.doubtful = True
            load.waits += 1
            return Back(loads=(load,), after_s=min(after_s * load.waits, LONGEST_WAIT_S))
        if after_s >= WORTH_A_LINE_S:
            log.warning("provider_slow", rest_s=after_s, remedy="if this is usual, ask the provider for a higher rate")
        paused = await self._told(self._pacer.slow(wait.after_ms))
        return Back(loads=(load,), after_s=0.0 if paused else after_s)

    async def _too_old(self, load: Load) -> Back:
        """Held back for so long that the provider may have forgotten the key: the same bytes are no longer safe."""
        self._lane.unused()
        if not load.doubtful and load.whole and await self._broken_up(load):
            return Back(parcels=load.live, answered=False)
        load.fail(Final(PARKED))
        return UNANSWERED

    async def _without_late(self, load: Load) -> bool:
        """End codes that ran out while their request waited; False when it goes as it is, even with some in it."""
        now_ms = self._clock.now_ms()
        late = [parcel for parcel in load.live if parcel.expired(now_ms)]
        if not late:
            return False
        if len(late) < len(load.live) and (load.doubtful or not load.whole or not await self._broken_up(load)):
            return False
        self._lane.unused()
        for parcel in late:
            parcel.fail(Expired(TOO_LATE))
        return True

    async def _broken_up(self, load: Load) -> bool:
        """Take the envelope back, so that its mails may travel in other company."""
        if load.envelope is None or not await self._unsealed(load.envelope.id, load.live):
            return False
        for parcel in load.parcels:
            parcel.envelope = None
        return True

    async def _freed(self, refused: Sequence[Parcel]) -> None:
        """Surely not sent, so a human's retry must be a new request: free all but those that another worker has."""
        eid = refused[0].envelope
        if eid is None or await self._unsealed(eid, refused):
            return
        for parcel in refused:
            await self._unsealed(eid, [parcel])

    async def _unsealed(self, eid: str, parcels: Sequence[Parcel]) -> bool:
        """Until Redis has answered: neither a refusal nor a new request may go before this is written."""
        while True:
            try:
                return await self._envelopes.unseal(eid, [parcel.job.id for parcel in parcels])
            except Outage:
                await asyncio.sleep(REDIS_REST_S)

    async def _told(self, telling: Awaitable[object]) -> bool:
        """Share what was learnt; while Redis is away, nobody else starts requests either."""
        try:
            await telling
        except Outage as outage:
            log.warning("store_away", service="carrier", reason=outage.reason)
            return False
        return True


def _sampled(refused: Sequence[tuple[Parcel, Result]]) -> Back:
    """All mails of a batch refused one by one: it may be the account's fault, which only a single request tells."""
    others = [(parcel, Final(result.reason)) for parcel, result in refused[1:] if isinstance(result, Refused)]
    return Back(sample=refused[0][0], others=others)

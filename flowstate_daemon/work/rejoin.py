"""Jobs whose request was sealed before: by a try that failed, by another daemon, or by a process that died.

Such a job must not get a new request. Its envelope is opened once for all members that come; if the provider's answer
is in it, they end by that, else the same bytes go again under the same key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from functools import partial

from flowstate_daemon.base.errors import Final, FlowstateError
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.envelopes import Envelopes
from flowstate_daemon.work.carrier import Carrier
from flowstate_daemon.work.parcel import PARKED, Load, Member, Parcel, unpack


class Rejoin:
    """The sealed requests that came back, by the id of their envelope."""

    def __init__(self, envelopes: Envelopes, carrier: Carrier, enter: Callable[[Load], None]) -> None:
        self._envelopes = envelopes
        self._carrier = carrier
        self._enter = enter
        self._loads: dict[str, Load] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, parcel: Parcel, eid: str) -> None:
        """Let a parcel travel in its envelope, whoever of its company is there already or comes later."""
        parcel.envelope = eid
        load = self._loads.get(eid)
        if load is not None and load.live and (load.urgent or not parcel.urgent):
            load.parcels.append(parcel)
        else:
            self._loads[eid] = load = Load([parcel], doubtful=True)
            task = asyncio.create_task(self._open(eid, load), name="rejoin")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        parcel.fate.add_done_callback(partial(self._ended, eid, load))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, eid: str, load: Load) -> None:
        try:
            envelope = await self._envelopes.open(eid)
        except FlowstateError as error:
            load.fail(error)
            return
        if envelope is not None and envelope.answer is None:
            load.envelope = envelope
            self._park_strangers(load, envelope.members)
            self._enter(load)
            return
        answer = envelope.answer if envelope is not None else None
        results = dict(zip(envelope.members, unpack(answer), strict=True)) if envelope and answer else {}
        while load.live:  # others may join while these end
            self._park_strangers(load, results)
            await self._carrier.settle(load.live, results)

    def _park_strangers(self, load: Load, known: Container[Member]) -> None:
        for parcel in load.live:
            if parcel.member not in known:
                parcel.fail(Final(PARKED))

    def _ended(self, eid: str, load: Load, _fate: asyncio.Future[Accepted]) -> None:
        if not load.live and self._loads.get(eid) is load:
            del self._loads[eid]

"""The worker ends when it is asked to, whatever its services wait for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import Lease
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.worker import Worker, WorkerOptions

ANSWER_S = 30.0  # of a store that answers late


class Waiting(Service):
    """Loses cancellations, as `wait_for` in Python 3.11 and drivers may."""

    name = "waiting"

    def __init__(self, heartbeat: Any, lost_cancellations: int) -> None:
        super().__init__(heartbeat)
        self.begun = asyncio.Event()
        self._lost = lost_cancellations

    async def run_once(self) -> None:
        self.begun.set()
        while True:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), ANSWER_S)
            except TimeoutError:
                return
            except asyncio.CancelledError:
                if not self._lost:
                    raise
                self._lost -= 1


async def handle(_: JobRun) -> None:
    """No job is added."""


@pytest.mark.parametrize("lost_cancellations", [0, 1, 2])
async def test_worker_that_gives_up_waits_for_no_store(
    connection: Connection, keys: Keys, lost_cancellations: int
) -> None:
    """A service that loses a cancellation is cancelled again, and does not go on to wait for the next store."""
    clock = Clock()
    context = ServiceContext(HealthRegistry(clock), Metrics(), clock)
    waiting = Waiting(context.health.register("waiting"), lost_cancellations)
    worker = Worker(
        BullQueue(connection, keys, clock, token="w/1"),
        QueueEvents(connection, keys),
        lease := Lease(connection, keys, instance_id="w", token="w/1"),
        handle,
        SendGate(context.health, context.metrics, clock),
        WorkerOptions(shutdown_timeout_s=60.0),
        context,
        producers=(waiting,),
    )
    await lease.acquire()
    running = asyncio.create_task(worker.run())
    await waiting.begun.wait()
    worker.stop()
    started = clock.monotonic()
    worker.give_up()
    await running
    assert clock.monotonic() - started < ANSWER_S / 2

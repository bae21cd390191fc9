"""The worker ends on request, whatever its services wait for."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import Lease
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.worker import Worker, WorkerOptions
from tests.support.waiting_service import WaitingService

ANSWER_S = 30.0  # of a store that answers late


async def handle(_: JobRun) -> None:
    """No job is added."""


@pytest.mark.parametrize("lost_cancellations", [0, 1, 2])
async def test_worker_that_gives_up_waits_for_no_store(
    connection: Connection, keys: Keys, lost_cancellations: int
) -> None:
    """A service that loses a cancellation is cancelled again, and does not go on to wait for the next store."""
    clock = Clock()
    context = ServiceContext(HealthRegistry(clock), Metrics(), clock)
    waiting = WaitingService(context.health.register("waiting"), lost_cancellations, answer_s=ANSWER_S)
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

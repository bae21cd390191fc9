"""A dispatcher with real jobs in Redis and the real SDK, and a fake provider on loopback. Tests send through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendOptions
from flowstate_daemon.mail.message import Accepted, Email
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.batch import OutgoingMail
from flowstate_daemon.sending.dispatcher import Dispatcher
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.request_store import RequestStore
from flowstate_daemon.sending.send_gate import SendGate
from tests.support.clock import FakeClock
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest

CODE, REMINDER = 1, 5


def mail_of(job: Job, **changes: Any) -> Email:
    """The email of a job: always the same."""
    fields: dict[str, Any] = {
        "kind": job.name,
        "sender": "FlowState <hello@flowstate.dev>",
        "to": f"person{job.id}@mail.dev",
        "subject": f"Mail of job {job.id}",
        "html": f"<p>{job.id}</p>",
        "text": job.id,
    }
    return Email(**(fields | changes))


@dataclass
class DispatcherHarness:
    """The dispatcher of one worker."""

    connection: Connection
    keys: Keys
    fake: FakeResend
    initial_rate: float | None = None
    instance: str = "harness"
    clock: Clock = field(default_factory=Clock)
    gate_clock: FakeClock = field(default_factory=FakeClock)
    timeout_s: float = 10.0
    records: RequestRecords | None = None

    async def open(self) -> None:
        self.token = f"{self.instance}/{uuid4().hex}"
        self.bull = BullQueue(self.connection, self.keys, self.clock, token=self.token)
        self.request_store = RequestStore(self.connection, self.keys, self.clock, token=self.token)
        self.rate_limiter = RateLimiter(
            self.connection, self.keys, self.clock, initial_rate=self.initial_rate, instance=self.instance
        )
        self.health = HealthRegistry(self.gate_clock)
        self.metrics = Metrics()
        self.gate = SendGate(self.health, self.metrics, self.gate_clock)
        context = ServiceContext(HealthRegistry(self.clock), self.metrics, self.clock)
        settings = ResendOptions(self.fake.api_key, self.fake.url, timeout_s=self.timeout_s)
        self.gateway = ResendGateway(settings)
        await self.gateway.open()
        self.dispatcher = Dispatcher(
            self.gateway,
            self.request_store,
            self.rate_limiter,
            self.gate,
            context.health.register(Dispatcher.name),
            context,
            records=self.records,
        )
        self._running = asyncio.create_task(self.dispatcher.run())

    async def close(self) -> None:
        self.dispatcher.stop()
        async with asyncio.timeout(10):
            await self._running
        await self.gateway.close()

    async def jobs(self, count: int, priority: int = REMINDER) -> list[Job]:
        """New jobs, claimed by this worker."""
        await self.bull.add_many([NewJob("welcome", {}, priority=priority) for _ in range(count)])
        return await self.claim(count)

    async def claim(self, count: int) -> list[Job]:
        jobs: list[Job] = []
        while len(jobs) < count:
            found = await self.bull.claim(min(100, count - len(jobs)))
            assert found, "no more jobs"
            jobs += found
        return jobs

    async def released(self, jobs: list[Job]) -> list[Job]:
        """Release the jobs and claim them again, as after a retry."""
        await self.bull.release(jobs)
        return await self.claim(len(jobs))

    def outgoing_mail(self, job: Job, *, expires_at: int | None = None, **changes: Any) -> OutgoingMail:
        urgent = job.priority == CODE
        return OutgoingMail(job, job.priority, urgent, lambda: mail_of(job, **changes), expires_at=expires_at)

    def post(self, job: Job, *, expires_at: int | None = None, **changes: Any) -> asyncio.Task[Accepted]:
        """Send the email of one job; the task ends with its result."""
        return asyncio.create_task(self.dispatcher.send(self.outgoing_mail(job, expires_at=expires_at, **changes)))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@asynccontextmanager
async def record_requests(fake: FakeResend) -> AsyncIterator[list[ReceivedRequest]]:
    """Record every request that reaches the provider."""
    seen: list[ReceivedRequest] = []

    def record(incoming: ReceivedRequest) -> bool:
        seen.append(incoming)
        return False

    fake.script(Answer(), when=record, times=None)
    yield seen


async def wait_for_results(
    tasks: list[asyncio.Task[Accepted]], *, within_s: float = 15.0
) -> list[Accepted | BaseException]:
    async with asyncio.timeout(within_s):
        return await asyncio.gather(*tasks, return_exceptions=True)

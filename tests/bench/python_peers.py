"""The Python peers: `<peer's python> -m tests.bench.python_peers <peer> <role> …`, as `protocol.py` describes.

Each adapter adds jobs and runs one worker in this process. The imports are inside the adapters because every peer has
an environment of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

import uvloop

from tests.bench.protocol import Recorder, code, jobs, parse_options, report

Job = dict[str, Any]
CHUNK = 100
MAIL_MODES = ("single", "batch")


class AsyncPeer:
    """Base of the peers whose handlers are coroutines."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.run(self.open())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def prepare(self) -> None:
        """Build the handler before the first job."""
        self.recorder = Recorder(self.given.mode, self.given.jobs, self.given.deadline)
        if self.given.mode in MAIL_MODES:
            from tests.bench.mail_handlers import AsyncMailer  # noqa: PLC0415 - only these modes need the libraries

            self.mailer = AsyncMailer(self.given.provider)

    async def perform(self, job: Job) -> None:
        self.recorder.begin(job)
        if job["mode"] == "hold":
            await asyncio.sleep(self.given.deadline)
        elif job["mode"] in MAIL_MODES:
            await self.mailer.send(job)
        self.recorder.end(job)

    def fill(self, jobs: Iterable[Job]) -> None:
        async def add_all() -> None:
            for chunk in chunks(jobs):
                await asyncio.gather(*map(self.enqueue, chunk))

        self.run(add_all())

    def add(self, job: Job) -> None:
        self.run(self.enqueue(job))

    async def open(self) -> None:
        raise NotImplementedError

    async def enqueue(self, job: Job) -> None:
        raise NotImplementedError


class Arq(AsyncPeer):
    async def open(self) -> None:
        from arq import create_pool  # noqa: PLC0415
        from arq.connections import RedisSettings  # noqa: PLC0415

        self.pool = await create_pool(RedisSettings.from_dsn(self.given.redis))

    async def enqueue(self, job: Job) -> None:
        await self.pool.enqueue_job("perform", job)

    def work(self) -> None:
        from arq.worker import Worker, func  # noqa: PLC0415

        async def perform(_context: Any, job: Job) -> None:
            await self.perform(job)

        function = func(perform, name="perform", keep_result=0)
        Worker([function], redis_pool=self.pool, max_jobs=self.given.concurrency, handle_signals=False).run()


class Saq(AsyncPeer):
    async def open(self) -> None:
        from saq import Queue  # noqa: PLC0415

        self.queue = Queue.from_url(self.given.redis)

    async def enqueue(self, job: Job) -> None:
        await self.queue.enqueue("perform", job=job, ttl=-1)

    def work(self) -> None:
        from saq import Worker  # noqa: PLC0415

        async def perform(_context: Any, *, job: Job) -> None:
            await self.perform(job)

        worker = Worker(self.queue, [("perform", perform)], concurrency=self.given.concurrency)
        self.run(worker.start())


class Taskiq(AsyncPeer):
    async def open(self) -> None:
        from taskiq_redis import RedisStreamBroker  # noqa: PLC0415

        self.broker = RedisStreamBroker(self.given.redis, consumer_id="0")

        @self.broker.task(task_name="perform")
        async def perform(job: Job) -> None:
            await self.perform(job)

        self.task = perform
        if self.given.role != "work":
            await self.broker.startup()

    async def enqueue(self, job: Job) -> None:
        await self.task.kiq(job)

    def work(self) -> None:
        from taskiq.api import run_receiver_task  # noqa: PLC0415

        limit = self.given.concurrency
        options = {"validate_params": False, "run_startup": True, "max_async_tasks": limit, "max_prefetch": limit}
        self.run(run_receiver_task(self.broker, **options))


class ThreadPeer:
    """Base of the peers whose handlers run in threads."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.open()

    def prepare(self) -> None:
        """Build the handler before the first job."""
        self.recorder = Recorder(self.given.mode, self.given.jobs, self.given.deadline)
        if self.given.mode in MAIL_MODES:
            from tests.bench.mail_handlers import ThreadMailer  # noqa: PLC0415 - only these modes need the libraries

            self.mailer = ThreadMailer(self.given.provider)

    def perform(self, job: Job) -> None:
        self.recorder.begin(job)
        if job["mode"] == "hold":
            time.sleep(self.given.deadline)
        elif job["mode"] in MAIL_MODES:
            self.mailer.send(job)
        self.recorder.end(job)

    def fill(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.add(job)

    def open(self) -> None:
        raise NotImplementedError

    def add(self, job: Job) -> None:
        raise NotImplementedError


class Dramatiq(ThreadPeer):
    def open(self) -> None:
        import dramatiq  # noqa: PLC0415
        from dramatiq.brokers.redis import RedisBroker  # noqa: PLC0415

        self.broker = RedisBroker(url=self.given.redis)
        dramatiq.set_broker(self.broker)
        self.actor = dramatiq.actor(self.perform, actor_name="perform", priority=10)
        self.urgent = dramatiq.actor(self.perform, actor_name="urgent", queue_name="urgent", priority=0)

    def add(self, job: Job) -> None:
        (self.urgent if job["mode"] == "code" else self.actor).send(job)

    def work(self) -> None:
        from dramatiq import Worker  # noqa: PLC0415

        Worker(self.broker, worker_threads=self.given.concurrency).start()
        threading.Event().wait()


class Rq(ThreadPeer):
    def open(self) -> None:
        from redis import Redis  # noqa: PLC0415
        from rq import Queue  # noqa: PLC0415

        self.connection = Redis.from_url(self.given.redis)
        self.queues = [Queue(name, connection=self.connection) for name in ("urgent", "email")]

    def add(self, job: Job) -> None:
        queue = self.queues[0 if job["mode"] == "code" else 1]
        queue.enqueue_call(RQ_HANDLER, (job,), timeout=600, result_ttl=0)

    def fill(self, jobs: Iterable[Job]) -> None:
        from rq import Queue  # noqa: PLC0415

        for chunk in chunks(jobs):
            self.queues[1].enqueue_many(
                [Queue.prepare_data(RQ_HANDLER, (job,), timeout=600, result_ttl=0) for job in chunk]
            )

    def work(self) -> None:
        from rq import SimpleWorker  # noqa: PLC0415

        CURRENT.append(self)
        SimpleWorker(self.queues, connection=self.connection, log_job_description=False).work(logging_level="ERROR")


RQ_HANDLER = "tests.bench.python_peers.rq_perform"  # rq imports its handler by name
CURRENT: list[ThreadPeer] = []


def rq_perform(job: Job) -> None:
    running = sys.modules["__main__"].CURRENT  # the worker runs this module as `__main__`
    running[0].perform(job)


class Huey(ThreadPeer):
    def open(self) -> None:
        from huey import PriorityRedisHuey, RedisHuey  # noqa: PLC0415

        kind = PriorityRedisHuey if self.given.priorities else RedisHuey
        self.huey = kind("email", url=self.given.redis, results=False)
        perform = self.perform

        @self.huey.task(name="perform")
        def task(job: Job) -> None:
            perform(job)

        self.task = task

    def add(self, job: Job) -> None:
        priority = {"priority": 100} if self.given.priorities and job["mode"] == "code" else {}
        self.huey.enqueue(self.task.s(job, **priority))

    def work(self) -> None:
        consumer = self.huey.create_consumer(workers=self.given.concurrency, periodic=False, check_worker_health=False)
        consumer.start()
        threading.Event().wait()


class CeleryPeer(ThreadPeer):
    def open(self) -> None:
        from celery import Celery  # noqa: PLC0415

        self.app = Celery("bench", broker=self.given.redis)
        self.app.conf.update(
            task_acks_late=True,
            task_ignore_result=True,
            broker_transport_options={"queue_order_strategy": "priority"},
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
        )
        peer = self

        @self.app.task(name="perform")
        def perform(job: Job) -> None:
            peer.perform(job)

        self.task = perform

    def add(self, job: Job) -> None:
        self._publish(job, None)

    def fill(self, jobs: Iterable[Job]) -> None:
        with self.app.producer_pool.acquire() as producer:
            for job in jobs:
                self._publish(job, producer)

    def _publish(self, job: Job, producer: Any) -> None:
        self.task.apply_async((job,), priority=0 if job["mode"] == "code" else 6, producer=producer)

    def work(self) -> None:
        options = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        self.app.Worker(pool="threads", concurrency=self.given.concurrency, loglevel="ERROR", **options).start()


ADAPTERS: dict[str, Any] = {
    "arq": Arq,
    "saq": Saq,
    "taskiq": Taskiq,
    "dramatiq": Dramatiq,
    "rq": Rq,
    "huey": Huey,
    "celery": CeleryPeer,
}


def chunks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    iterator = iter(jobs)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def main() -> None:
    name, given = sys.argv[1], parse_options(sys.argv[2:])
    logging.basicConfig(level=logging.ERROR, force=True)
    adapter = ADAPTERS[name](given)
    if given.role == "work":
        adapter.prepare()
        adapter.work()
    elif given.role == "fill":
        started = time.time()
        adapter.fill(jobs(given.mode, given.jobs))
        report({"seconds": round(time.time() - started, 3)})
    else:
        spent = []
        for number in range(given.jobs):
            job = code(number)
            adapter.add(job)
            spent.append(round((time.time() - job["at"]) * 1000, 3))
            time.sleep(given.interval)
        report({"adds_ms": spent})


if __name__ == "__main__":
    main()

"""The same house with stores of its own: what `flowstate-daemon dev` opens on a machine that has nothing.

Valkey and Postgres come out of wheels, the FlowState tables get sample people, and mails are written to a folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.config.loader import Config, load
from flowstate_daemon.daemon.bootstrap import build_manual_runs
from flowstate_daemon.daemon.daemon import Daemon
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.dev.embedded import LOOPBACK, EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import seed_database
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import FinishedJob, JobWaiter
from flowstate_daemon.redis_client.connection import from_settings
from flowstate_daemon.scheduler.manual_runs import ManualRuns, RunRequest

POLL_INTERVAL_S = 0.05
OPEN_STATES = {"planned", "queued"}
OUTCOME_QUERY = """
    SELECT kind, state, coalesce(reason, '') AS reason, count(*) AS people
    FROM flowstate_daemon.scheduled_mails WHERE planned_at >= $1
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 4 DESC, 3
"""


@dataclass(frozen=True, slots=True)
class ScheduleOutcome:
    """What became of how many slots of one schedule, and why."""

    kind: str
    state: str
    recipients: int
    reason: str = ""


async def plan_all(by_hand: ManualRuns, now: datetime) -> None:
    """Everybody's slots of today, also those that have ended earlier today. Raises Outage."""
    for name in by_hand.names:
        await by_hand.run(RunRequest(name, now, force=True))


async def wait_for_outcomes(url: str, since: datetime, *, within_s: float) -> list[ScheduleOutcome]:
    """Wait until all that was planned has ended. Raises TimeoutError."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(within_s):
            results = await _results(connection, since)
            while OPEN_STATES.intersection(result.state for result in results):
                await asyncio.sleep(POLL_INTERVAL_S)  # the ledger writer tells nobody when it has written
                results = await _results(connection, since)
    finally:
        await connection.close()
    return results


async def _results(connection: asyncpg.Connection, since: datetime) -> list[ScheduleOutcome]:
    return [
        ScheduleOutcome(row["kind"], row["state"], row["people"], row["reason"])
        for row in await connection.fetch(OUTCOME_QUERY, since)
    ]


DATABASE = "flowstate"
SENDER = "FlowState <hello@flowstate.example>"
RECIPIENT = "ada@flowstate.example"
SAMPLE_TIMEOUT_S = 30.0
HTTP_PORT = 8080
PASS_THROUGH_PREFIXES = (
    "FLOWSTATE_QUEUE_",
    "FLOWSTATE_HTTP_",
    "FLOWSTATE_MAIL_",
    "FLOWSTATE_LOG_",
    "FLOWSTATE_SCHEDULE_",
)
PRODUCER = "dev/samples"


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What became of one sample mail: Bull's state, the file in the outbox, or the reason why there is none."""

    kind: str
    state: str
    file: str = ""
    reason: str = ""


class DevEnvironment:
    """Both stores, the tables, the people, and one daemon on top; `async with` opens and closes it all."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        """`environ` may set anything but the addresses of the stores, which are our own."""
        self.folder = folder.resolve()
        self.outbox = self.folder / "outbox"
        self.api_token = environ.get("FLOWSTATE_HTTP_API_TOKEN") or secrets.token_urlsafe(32)
        self._environ = environ
        self._clock = Clock()
        self._opened = AsyncExitStack()
        self._daemon: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises ConfigError when the folder cannot be used, or another house is open in it; Outage."""
        async with AsyncExitStack() as opening:
            opening.enter_context(lock_folder(self.folder))
            valkey = EmbeddedValkey(self.folder / "valkey", appendonly=True)
            postgres = EmbeddedPostgres(self.folder / "postgres")
            await opening.enter_async_context(valkey)
            await opening.enter_async_context(postgres)
            self._opened_at = self._clock.now()
            self.recipients = await seed_database(postgres.url(), DATABASE, self._opened_at)
            self.database_url = postgres.url(DATABASE)
            self.config = self._configured(valkey.url, self.database_url)
            self.daemon = Daemon(self.config, self._clock)
            self._opened = opening.pop_all()
        self._daemon = asyncio.create_task(self.daemon.run(), name="daemon")
        return self

    def _configured(self, redis_url: str, database_url: str) -> Config:
        # Under the names that win over all others: a shell may hold the addresses of real stores and a real key.
        own = {
            "FLOWSTATE_REDIS_URL": redis_url,
            "FLOWSTATE_DATABASE_URL": database_url,
            "FLOWSTATE_OUTBOX_FOLDER": str(self.outbox),
            "FLOWSTATE_MAIL_FROM_ADDRESS": self._environ.get("RESEND_FROM_EMAIL", SENDER),
        }
        other = {name: self._environ[name] for name in self._environ if name.startswith(PASS_THROUGH_PREFIXES)}
        port = other.setdefault("FLOWSTATE_HTTP_PORT", str(free_port_near(HTTP_PORT)))
        doors = {"FLOWSTATE_HTTP_API_TOKEN": self.api_token, "FLOWSTATE_HTTP_LINK_SECRET": secrets.token_hex(32)}
        if port != "0":
            doors["FLOWSTATE_HTTP_PUBLIC_URL"] = f"http://{LOOPBACK}:{port}"
        return load({**doors, **other, **own}, sending=True)

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.daemon.components.worker.stop()
            if self._daemon is not None:
                await self._daemon
        finally:
            await self._opened.aclose()

    async def send_samples(self) -> list[SampleResult]:
        """Enqueue one mail of each kind and wait for its end. Raises TimeoutError, Outage."""
        # A connection of its own: the daemon's one subscriber is the daemon's.
        connection = from_settings(self.config.redis, client_name="dev")
        keys, queue = self.daemon.components.keys, self.config.queue
        producer = MailProducer(
            BullQueue(connection, keys, Clock(), token=PRODUCER),
            attempts=queue.default_attempts,
            backoff_ms=queue.default_backoff_ms,
        )
        contexts = preview_contexts(self.config.mail.frontend_url)
        try:
            async with JobWaiter(connection, keys) as watch:
                orders = [NewMail(kind, RECIPIENT, context) for kind, context in contexts.items()]
                added = await producer.enqueue_many(orders)
                ends = [await watch.wait(job.id, SAMPLE_TIMEOUT_S) for job in added]
        finally:
            await connection.close()
        return [self._output(kind, end) for kind, end in zip(contexts, ends, strict=True)]

    async def run_schedules(self) -> list[ScheduleOutcome]:
        """Send the sample people all that is due; the daemon must be at work. Raises TimeoutError, Outage."""
        built, now = self.daemon.components, self._clock.now()
        if built.pool is None or built.scheduler is None:
            return []
        await plan_all(build_manual_runs(self.config, built.pool, self._clock), now)
        built.scheduler.enqueuer.wake.set()
        return await wait_for_outcomes(self.database_url, self._opened_at, within_s=SAMPLE_TIMEOUT_S)

    def _output(self, kind: str, end: FinishedJob) -> SampleResult:
        if end.state != "completed" or end.returnvalue is None:
            return SampleResult(kind, end.state, reason=end.reason or "")
        provider_id = msgspec.json.decode(end.returnvalue)["id"]
        return SampleResult(kind, end.state, Outbox(self.outbox).path(provider_id).name)

    async def wait_until_stopped(self) -> None:
        """Stay open until a signal ends the daemon. Raises what ended it otherwise."""
        if self._daemon is not None:
            await self._daemon


def free_port_near(request: int) -> int:
    """The port wished for, or 0 for any free one when somebody has it already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, request))
        except OSError:
            return 0
    return request


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """The folder, made if need be, and for one house alone: two Valkeys on the same files would spoil them.

    Raises ConfigError. The lock ends with the process, also by kill -9.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError([f"{folder}: {error.strerror}; name another folder with --folder"]) from error
    try:
        _acquire_lock(lock, folder)
        yield
    finally:
        os.close(lock)


def _acquire_lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        remedy = "close that one with Ctrl-C, or name another folder with --folder"
        raise ConfigError([f"{folder}: another `flowstate-daemon dev` has this folder open: {remedy}"]) from error

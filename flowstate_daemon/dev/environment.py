"""The environment of `flowstate-daemon dev`: a daemon with embedded stores, sample users and an outbox folder.

It needs nothing else on the machine, and ignores the addresses of real stores in the shell's environment.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError
from flowstate_daemon.config.loader import Config, load
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.daemon.daemon import Daemon
from flowstate_daemon.daemon.dashboard import build_sessions
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.dev.embedded import LOOPBACK, EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import seed_database
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import ORIGIN, MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import FinishedJob, JobWaiter
from flowstate_daemon.redis_client.connection import from_settings
from flowstate_daemon.scheduler.manual_runs import ManualRuns, RunRequest
from flowstate_daemon.web.dashboard.app import login_url

T = TypeVar("T")

DATABASE = "flowstate"
SENDER = "FlowState <hello@flowstate.example>"
RECIPIENT = "ada@flowstate.example"
SAMPLE_TIMEOUT_S = 30.0
LATE_SAMPLES = f"the sample emails had no outcome within {SAMPLE_TIMEOUT_S:g} s; the log of the daemon says why"
HTTP_PORT = 8080
PASS_THROUGH_PREFIXES = (
    "FLOWSTATE_QUEUE_",
    "FLOWSTATE_HTTP_",
    "FLOWSTATE_MAIL_",
    "FLOWSTATE_LINKS_",
    "FLOWSTATE_LOG_",
    "FLOWSTATE_SCHEDULE_",
)
COLOR_VARIABLES = ("NO_COLOR", "TERM", "FLOWSTATE_LOG_COLORS")
HTTP_PREFIX = "FLOWSTATE_HTTP_"
PRODUCER = "dev/samples"
POLL_INTERVAL_S = 0.05
OPEN_STATES = {"planned", "queued"}
OUTCOME_QUERY = """
    SELECT kind, state, coalesce(reason, '') AS reason, count(*) AS recipients
    FROM flowstate_daemon.scheduled_mails WHERE planned_at >= $1
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 4 DESC, 3
"""


@dataclass(frozen=True, slots=True)
class ScheduleOutcome:
    """How many scheduled emails of one kind have this state and reason."""

    kind: str
    state: str
    recipients: int
    reason: str = ""


async def plan_all(manual_runs: ManualRuns, now: datetime) -> None:
    """Schedule today's emails of every kind, also those already sent today. Raises StoreUnavailableError."""
    for name in manual_runs.names:
        await manual_runs.run(RunRequest(name, now, force=True), actor="dev")


async def wait_for_outcomes(url: str, since: datetime, *, within_s: float) -> list[ScheduleOutcome]:
    """Wait until every email planned after `since` has an outcome. Raises TimeoutError."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(within_s):
            outcomes = await _read_outcomes(connection, since)
            while OPEN_STATES.intersection(outcome.state for outcome in outcomes):
                await asyncio.sleep(POLL_INTERVAL_S)  # the ledger writer sends no notification
                outcomes = await _read_outcomes(connection, since)
    finally:
        await connection.close()
    return outcomes


async def _read_outcomes(connection: asyncpg.Connection, since: datetime) -> list[ScheduleOutcome]:
    return [
        ScheduleOutcome(row["kind"], row["state"], row["recipients"], row["reason"])
        for row in await connection.fetch(OUTCOME_QUERY, since)
    ]


@dataclass(frozen=True, slots=True)
class SampleResult:
    """The result of one sample email: Bull's state or `not sent`; the file in the outbox, or why there is none."""

    kind: str
    state: str
    file: str = ""
    reason: str = ""


class DevEnvironment:
    """Both stores, the application's tables with sample users, and one daemon.

    `async with` starts the stores and stops everything; `start` starts the daemon, whose address is known before.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        """Of `environ`, only variables with one of PASS_THROUGH_PREFIXES apply, and the sender's address.

        Raises ConfigError.
        """
        self.folder = folder.resolve()
        self.outbox = self.folder / "outbox"
        self._environ = environ
        self._passed = {name: environ[name] for name in environ if name.startswith(PASS_THROUGH_PREFIXES)}
        wanted = self._passed.get("FLOWSTATE_HTTP_PORT", "")
        if wanted in ("", "0"):  # the address is printed before the daemon has its port
            self._passed["FLOWSTATE_HTTP_PORT"] = str(free_port_near(0 if wanted else HTTP_PORT))
        self._passed.setdefault("FLOWSTATE_HTTP_API_TOKEN", secrets.token_urlsafe(32))
        self.http = load({name: value for name, value in self._passed.items() if name.startswith(HTTP_PREFIX)})
        self.api_token = split_secrets(self.http.http.api_token)[0]
        self.colors = load({name: environ[name] for name in COLOR_VARIABLES if name in environ}).log.colors
        self._clock = Clock()
        self._exit_stack = AsyncExitStack()
        self._daemon_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """The caller has locked the folder. Raises StoreUnavailableError."""
        async with AsyncExitStack() as stack:
            valkey = EmbeddedValkey(self.folder / "valkey", appendonly=True)
            postgres = EmbeddedPostgres(self.folder / "postgres")
            await stack.enter_async_context(valkey)
            await stack.enter_async_context(postgres)
            self._started_at = self._clock.now()
            self.user_count = await seed_database(postgres.url(), DATABASE, self._started_at)
            self.database_url = postgres.url(DATABASE)
            self.config = self._load_config(valkey.url, self.database_url)
            self._exit_stack = stack.pop_all()
        return self

    def start(self) -> None:
        """Start the daemon. From here on it logs."""
        self.daemon = Daemon(self.config, self._clock)
        self._daemon_task = asyncio.create_task(self.daemon.run(), name="daemon")

    def _load_config(self, redis_url: str, database_url: str) -> Config:
        # These names take precedence over all others: the shell may contain addresses of real stores and a real key.
        fixed = {
            "FLOWSTATE_REDIS_URL": redis_url,
            "FLOWSTATE_DATABASE_URL": database_url,
            "FLOWSTATE_QUEUE_DELIVERY": "outbox",
            "FLOWSTATE_OUTBOX_FOLDER": str(self.outbox),
            "FLOWSTATE_MAIL_FROM_ADDRESS": self._environ.get("RESEND_FROM_EMAIL", SENDER),
        }
        defaults = {
            "FLOWSTATE_HTTP_LINK_SECRET": secrets.token_hex(32),
            "FLOWSTATE_HTTP_PUBLIC_URL": f"http://{LOOPBACK}:{self._passed['FLOWSTATE_HTTP_PORT']}",
        }
        config = load({**defaults, **self._passed, **fixed}, sending=True)
        return config.model_copy(update={"is_dev": True})

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._daemon_task is not None:
                self.daemon.components.worker.stop()
                await self._daemon_task
        finally:
            await self._exit_stack.aclose()

    async def until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`; None when a signal stops the daemon first. Raises the error that ends the daemon otherwise."""
        assert self._daemon_task is not None
        task = asyncio.create_task(self.daemon.components.worker.run_until_stopped(work))
        await asyncio.wait((task, self._daemon_task), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._daemon_task
            return None
        return await task

    async def send_samples(self) -> list[SampleResult]:
        """Enqueue one email of each kind and wait for the results. Raises FlowstateError, StoreUnavailableError."""
        # A separate connection: the daemon's connection has one subscriber, which the daemon uses.
        connection = from_settings(self.config.redis, client_name="dev")
        keys, queue = self.daemon.components.keys, self.config.queue
        producer = MailProducer(
            BullQueue(connection, keys, Clock(), token=PRODUCER),
            attempts=queue.default_attempts,
            backoff_ms=queue.default_backoff_ms,
        )
        contexts = preview_contexts(self.config.mail.frontend_url)
        try:
            async with JobWaiter(connection, keys) as waiter:
                # With an origin: the kinds of the schedules are else taken for duplicates of the backend's cron jobs.
                mails = [NewMail(kind, RECIPIENT, context, origin=ORIGIN) for kind, context in contexts.items()]
                added = await producer.enqueue_many(mails)
                finished = [await waiter.wait(job.id, SAMPLE_TIMEOUT_S) for job in added]
        except TimeoutError as error:
            raise FlowstateError(LATE_SAMPLES) from error
        finally:
            await connection.close()
        return [self._sample_result(kind, job) for kind, job in zip(contexts, finished, strict=True)]

    async def run_schedules(self) -> list[ScheduleOutcome]:
        """Send everything that is due to the sample users. Raises FlowstateError and StoreUnavailableError."""
        components, now = self.daemon.components, self._clock.now()
        if components.pool is None or components.scheduler is None:
            return []
        await plan_all(build_manual_runs(self.config, components.pool, self._clock), now)
        components.scheduler.enqueuer.wake.set()
        try:
            return await wait_for_outcomes(self.database_url, self._started_at, within_s=SAMPLE_TIMEOUT_S)
        except TimeoutError as error:
            raise FlowstateError(LATE_SAMPLES) from error

    def _sample_result(self, kind: str, job: FinishedJob) -> SampleResult:
        if job.state != "completed" or job.returnvalue is None:
            return SampleResult(kind, job.state, reason=job.reason or "")
        result = msgspec.json.decode(job.returnvalue)
        if "id" not in result:
            return SampleResult(kind, "not sent", reason=", ".join(f"{key}: {why}" for key, why in result.items()))
        return SampleResult(kind, job.state, Outbox(self.outbox).path(result["id"]).name)

    @property
    def url(self) -> str:
        """The address of the HTTP server."""
        return f"http://{self.http.http.host}:{self.http.http.port}"

    @property
    def login_url(self) -> str:
        """The address of the operator's pages, logged in; it works once. It is known before anything is started."""
        return login_url(self.url, build_sessions(self.http, self._clock), self.api_token)

    async def wait_until_listening(self) -> None:
        """Wait until the HTTP server has its port. Raises TimeoutError."""
        async with asyncio.timeout(SAMPLE_TIMEOUT_S):
            while not self.daemon.components.web.bound_port and not self._has_ended():  # noqa: ASYNC110
                await asyncio.sleep(POLL_INTERVAL_S)  # the server sends no notification

    def _has_ended(self) -> bool:
        return self._daemon_task is not None and self._daemon_task.done()

    async def wait_until_stopped(self) -> None:
        """Wait until a signal stops the daemon. Raises the error that stopped it otherwise."""
        if self._daemon_task is not None:
            await self._daemon_task


def free_port_near(preferred: int) -> int:
    """The preferred port, or any free port when it is in use. It is known before the daemon starts."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return preferred


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create the folder and lock it: two Valkeys that use the same files would corrupt them.

    Raises ConfigError. The lock ends with the process, also after kill -9.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError([f"{folder}: {error.strerror}; choose another folder with --folder"]) from error
    try:
        _acquire_lock(lock, folder)
        yield
    finally:
        os.close(lock)


def _acquire_lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        remedy = "stop it with Ctrl-C, or choose another folder with --folder"
        raise ConfigError([f"{folder}: another `flowstate-daemon dev` uses this folder: {remedy}"]) from error

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
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config, load
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.daemon.by_hand import build_by_hand
from flowstate_daemon.daemon.house import House
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.dev.calendar import Fate, fates_since, plan_everything
from flowstate_daemon.dev.embedded import LOOPBACK, PostgresHouse, ValkeyHouse
from flowstate_daemon.dev.seed import plant
from flowstate_daemon.intake import Intake, MailOrder
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import connection_to
from flowstate_daemon.queue.watch import FinishedJob, Watch

DATABASE = "flowstate"
SENDER = "FlowState <hello@flowstate.example>"
RECIPIENT = "ada@flowstate.example"
PATIENCE_S = 30.0
HTTP_PORT = 8080
WELCOME = ("FLOWSTATE_QUEUE_", "FLOWSTATE_HTTP_", "FLOWSTATE_MAIL_", "FLOWSTATE_LOG_", "FLOWSTATE_SCHEDULE_")
PRODUCER = "dev/samples"


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one sample mail: Bull's state, the file in the outbox, or the reason why there is none."""

    kind: str
    state: str
    file: str = ""
    reason: str = ""


class DevHouse:
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
            opening.enter_context(held(self.folder))
            valkey = ValkeyHouse(self.folder / "valkey", appendonly=True)
            postgres = PostgresHouse(self.folder / "postgres")
            await opening.enter_async_context(valkey)
            await opening.enter_async_context(postgres)
            self._opened_at = self._clock.now()
            self.people = await plant(postgres.url(), DATABASE, self._opened_at)
            self.database_url = postgres.url(DATABASE)
            self.config = self._configured(valkey.url, self.database_url)
            self.house = House(self.config, self._clock)
            self._opened = opening.pop_all()
        self._daemon = asyncio.create_task(self.house.run(), name="daemon")
        return self

    def _configured(self, redis_url: str, database_url: str) -> Config:
        # Under the names that win over all others: a shell may hold the addresses of real stores and a real key.
        ours = {
            "FLOWSTATE_REDIS_URL": redis_url,
            "FLOWSTATE_DATABASE_URL": database_url,
            "FLOWSTATE_OUTBOX_FOLDER": str(self.outbox),
            "FLOWSTATE_MAIL_FROM_ADDRESS": self._environ.get("RESEND_FROM_EMAIL", SENDER),
        }
        theirs = {name: self._environ[name] for name in self._environ if name.startswith(WELCOME)}
        port = theirs.setdefault("FLOWSTATE_HTTP_PORT", str(port_near(HTTP_PORT)))
        doors = {"FLOWSTATE_HTTP_API_TOKEN": self.api_token, "FLOWSTATE_HTTP_LINK_SECRET": secrets.token_hex(32)}
        if port != "0":
            doors["FLOWSTATE_HTTP_PUBLIC_URL"] = f"http://{LOOPBACK}:{port}"
        return load({**doors, **theirs, **ours}, sending=True)

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.house.built.engine.stop()
            if self._daemon is not None:
                await self._daemon
        finally:
            await self._opened.aclose()

    async def send_samples(self) -> list[Sent]:
        """Enqueue one mail of each kind and wait for its end. Raises TimeoutError, Outage."""
        # A connection of its own: the daemon's one subscriber is the daemon's.
        connection = connection_to(self.config.redis, client_name="dev")
        keys, queue = self.house.built.keys, self.config.queue
        intake = Intake(
            Bull(connection, keys, Clock(), token=PRODUCER), attempts=queue.attempts, backoff_ms=queue.backoff_ms
        )
        contexts = preview_contexts(self.config.mail.frontend_url)
        try:
            async with Watch(connection, keys) as watch:
                orders = [MailOrder(kind, RECIPIENT, context) for kind, context in contexts.items()]
                added = await intake.accept_many(orders)
                ends = [await watch.finished(job.id, PATIENCE_S) for job in added]
        finally:
            await connection.close()
        return [self._told(kind, end) for kind, end in zip(contexts, ends, strict=True)]

    async def run_schedules(self) -> list[Fate]:
        """Send the sample people all that is due; the daemon must be at work. Raises TimeoutError, Outage."""
        built, now = self.house.built, self._clock.now()
        if built.pool is None or built.calendar is None:
            return []
        await plan_everything(build_by_hand(self.config, built.pool, self._clock), now)
        built.calendar.feeder.due.set()
        return await fates_since(self.database_url, self._opened_at, within_s=PATIENCE_S)

    def _told(self, kind: str, end: FinishedJob) -> Sent:
        if end.state != "completed" or end.returnvalue is None:
            return Sent(kind, end.state, reason=end.reason or "")
        provider_id = msgspec.json.decode(end.returnvalue)["id"]
        return Sent(kind, end.state, Outbox(self.outbox).path(provider_id).name)

    async def until_stopped(self) -> None:
        """Stay open until a signal ends the daemon. Raises what ended it otherwise."""
        if self._daemon is not None:
            await self._daemon


def port_near(wish: int) -> int:
    """The port wished for, or 0 for any free one when somebody has it already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wish))
        except OSError:
            return 0
    return wish


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, and for one house alone: two Valkeys on the same files would spoil them.

    Raises ConfigError. The lock ends with the process, also by kill -9.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError([f"{folder}: {error.strerror}; name another folder with --folder"]) from error
    try:
        _take(lock, folder)
        yield
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        remedy = "close that one with Ctrl-C, or name another folder with --folder"
        raise ConfigError([f"{folder}: another `flowstate-daemon dev` has this folder open: {remedy}"]) from error

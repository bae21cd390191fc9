"""What commands share: the configuration, one connection to Redis, and the queue's readers and writers."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.config.loader import Config, load
from flowstate_daemon.config.sources import config_path
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.audit import AuditLog
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection, from_settings
from flowstate_daemon.redis_client.keys import Keys

T = TypeVar("T")

MAX_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class QueueContext:
    """The queue, as one command uses it."""

    connection: Connection
    keys: Keys
    clock: Clock
    producer: MailProducer
    inspector: Inspector
    admin: QueueAdmin
    audit: AuditLog


def operator_name() -> str:
    """Who runs this command: the account, behind `sudo` the person, and the host."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container runs as a number
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER", "")
    return f"{behind + ' as ' if behind and behind != name else ''}{name} on {socket.gethostname()}"[:MAX_NAME_LENGTH]


def load_config(config_file: str | None, *, sending: bool = False, with_credentials: bool = True) -> Config:
    """The configuration of this command; `sending` also requires the settings that only `run` needs.

    Raises ConfigError.
    """
    return load(os.environ, config_path(config_file), sending=sending, with_credentials=with_credentials)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on the event loop that the daemon uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def with_queue(config_file: str | None, work: Callable[[QueueContext], Awaitable[T]]) -> T:
    """Connect, do the work, and close the connection. Raises ConfigError and StoreUnavailableError."""
    config = load_config(config_file)
    logs.configure("warning", config.log.format)
    return run_async(_with_connection(config, work))


async def _with_connection(config: Config, work: Callable[[QueueContext], Awaitable[T]]) -> T:
    keys, clock = Keys(config.queue.prefix, config.queue.name), Clock()
    token = f"cli/{uuid.uuid4().hex}"
    # A command is not a worker: Bull's getWorkers() must not count this client name.
    connection = from_settings(config.redis, client_name="flowstate-daemon-cli")
    await connection.open()
    try:
        bull = BullQueue(connection, keys, clock, token=token, max_data_bytes=config.queue.max_data_bytes)
        producer = MailProducer(
            bull, attempts=config.queue.default_attempts, backoff_ms=config.queue.default_backoff_ms
        )
        audit = AuditLog(connection, keys, clock, actor=operator_name())
        journal_limit = 0 if config.database.url is not None else config.database.journal_max_entries
        admin = QueueAdmin(connection, keys, clock, token=token, audit=audit, journal_limit=journal_limit)
        return await work(QueueContext(connection, keys, clock, producer, Inspector(connection, keys), admin, audit))
    finally:
        await connection.close()

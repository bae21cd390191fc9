"""What one-shot commands work with: a configuration, one connection to the queue, its windows and hands."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config, load
from flowstate_daemon.base.gathering import file_of
from flowstate_daemon.intake import Intake
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection, connection_to
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.operator import Operator

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Desk:
    """One command's view of the queue."""

    connection: Connection
    keys: Keys
    clock: Clock
    intake: Intake
    inspector: Inspector
    operator: Operator


def configured(config_file: str | None, *, sending: bool = False) -> Config:
    """The configuration of this call; `sending` demands what only `run` needs. Raises ConfigError."""
    return load(os.environ, file_of(config_file), sending=sending)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on the house's kind of loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def at_desk(config_file: str | None, work: Callable[[Desk], Awaitable[T]]) -> T:
    """Open a desk, do the work there, and close it. Raises Outage when Redis is away."""
    config = configured(config_file)
    logs.configure("warning", config.log.format)
    return run_async(_at_desk(config, work))


async def _at_desk(config: Config, work: Callable[[Desk], Awaitable[T]]) -> T:
    keys, clock = Keys(config.queue.prefix, config.queue.name), Clock()
    token = f"cli/{uuid.uuid4().hex}"
    # A command is no worker: it bears no name that Bull's getWorkers() would count.
    connection = connection_to(config.redis, client_name="flowstate-daemon-cli")
    await connection.open()
    try:
        bull = Bull(connection, keys, clock, token=token, max_data_bytes=config.queue.max_data_bytes)
        intake = Intake(bull, attempts=config.queue.attempts, backoff_ms=config.queue.backoff_ms)
        operator = Operator(connection, keys, clock, token=token)
        return await work(Desk(connection, keys, clock, intake, Inspector(connection, keys), operator))
    finally:
        await connection.close()

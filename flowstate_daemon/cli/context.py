"""What commands share: the configuration, one connection to Redis, and the queue's readers and writers."""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.cli.health import HealthEndpoint, find_endpoint
from flowstate_daemon.config.loader import ENV_NAMES, Config, describe_redis, load
from flowstate_daemon.config.sources import Key, config_path
from flowstate_daemon.config.unit_settings import (
    ENVIRONMENT_FILE,
    REDIS_ADDRESS,
    UnitSettings,
    is_unit_process,
    read_unit_settings,
)
from flowstate_daemon.mail.kind_files import read_kind_files
from flowstate_daemon.mail.kinds import load_kinds
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.operations.failures import Failures
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.audit import AuditLog
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.search import JobSearch
from flowstate_daemon.redis_client.connection import Connection, from_settings
from flowstate_daemon.redis_client.keys import Keys

T = TypeVar("T")

MAX_NAME_LENGTH = 100
OTEL_PREFIX = "OTEL_"


@dataclass(frozen=True, slots=True)
class QueueContext:
    """The queue, as one command uses it."""

    connection: Connection
    keys: Keys
    clock: Clock
    producer: MailProducer
    inspector: Inspector
    search: JobSearch
    failures: Failures
    admin: QueueAdmin
    audit: AuditLog


def operator_name() -> str:
    """Who runs this command: the account, the person who used `sudo`, and the host."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container runs as a number
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER", "")
    return f"{behind + ' as ' if behind and behind != name else ''}{name} on {socket.gethostname()}"[:MAX_NAME_LENGTH]


def load_config(
    config_file: str | None, *, sending: bool = False, needs: Sequence[Key] = (), with_credentials: bool = True
) -> Config:
    """The configuration of this command; `sending` also requires the settings that only `run` needs.

    On a host with the systemd service the settings of its unit apply, unless the shell sets them or names a file.
    Raises ConfigError, also when the unit's settings cannot be read and the command `needs` one of them.
    """
    unit = UnitSettings() if config_file or is_unit_process(os.environ) else read_unit_settings(ENV_NAMES)
    unit = unit.without(os.environ, ENV_NAMES)
    environ = {**os.environ, **unit.variables}
    for name in unit.variables:
        if name.startswith(OTEL_PREFIX):  # the OpenTelemetry SDK reads its variables itself
            os.environ.setdefault(name, unit.variables[name])
    _check_unit(unit, {name for name, value in environ.items() if value.strip()}, needs)
    config = load(
        environ,
        config_path(config_file),
        sending=sending,
        credentials=unit.credentials if with_credentials else {},
        with_credentials=with_credentials,
    )
    from_unit = {name: f"{name} in {unit.origins[name]}" for name in unit.variables}
    sources = {key: from_unit.get(source, source) for key, source in config.sources.items()}
    return config.model_copy(update={"sources": sources})


def health_endpoint(config: Config) -> HealthEndpoint:
    """Where the daemon of this configuration answers, as `health` finds it. Raises ConfigError."""
    http = config.http
    settings = {
        "FLOWSTATE_HTTP_ENABLED": str(http.enabled).lower(),
        "FLOWSTATE_HTTP_HOST": http.host,
        "FLOWSTATE_HTTP_PORT": str(http.port),
    }
    return find_endpoint(settings, None)


def unsubscribable_kinds(config_file: str | None) -> list[str]:
    """The kinds that people can unsubscribe from, with those of `mail.kinds_dir`. Raises ConfigError."""
    problems: list[str] = []
    kinds = load_kinds(read_kind_files(load_config(config_file).mail.kinds_dir, problems), problems)
    if problems:
        raise ConfigError(problems)
    return sorted(kind.name for kind in kinds.values() if kind.unsubscribable)


def _check_unit(unit: UnitSettings, given: Collection[str], needs: Sequence[Key]) -> None:
    """Refuse to use a default where the service has a setting that this process cannot read. Raises ConfigError."""
    names = {name for name, key in ENV_NAMES.items() if key in needs}
    if not names or any(name in given or f"{name}_FILE" in given for name in names):
        return
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    if unit.unreadable:
        wanted = ", ".join(map(str, unit.unreadable))
        remedy = f"run: sudo {command}; or set {min(names, key=len)} to use another server"
        raise ConfigError([f"{wanted}: only root can read the settings of the service; {remedy}"])
    encrypted = sorted(names & unit.encrypted.keys() - unit.credentials.keys(), key=len)
    if encrypted:
        name, file = encrypted[0].lower(), unit.encrypted[encrypted[0]]
        options = f"-p EnvironmentFile=-{ENVIRONMENT_FILE} -p LoadCredentialEncrypted={name}:{file}"
        remedy = f"run: sudo systemd-run --quiet --pipe --wait --collect {options} {command}"
        raise ConfigError([f"{file}: the setting of the service is encrypted; {remedy}"])


def name_server(description: str) -> None:
    """Name the server of a command on standard error, so that its answer is not mistaken for another server's."""
    click.echo(f"flowstate-daemon: {description}", err=True)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on the event loop that the daemon uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def with_queue(config_file: str | None, work: Callable[[QueueContext], Awaitable[T]]) -> T:
    """Connect, do the work, and close the connection. Raises ConfigError and StoreUnavailableError."""
    config = load_config(config_file, needs=REDIS_ADDRESS)
    logs.configure("warning", config.log.format, colors=config.log.colors)
    name_server(describe_redis(config))
    return run_async(_with_connection(config, work))


async def _with_connection(config: Config, work: Callable[[QueueContext], Awaitable[T]]) -> T:
    async with open_queue(config) as context:
        return await work(context)


@asynccontextmanager
async def open_queue(config: Config) -> AsyncIterator[QueueContext]:
    """The queue of a configuration over a connection that is closed at the end. Raises StoreUnavailableError."""
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
        yield QueueContext(
            connection,
            keys,
            clock,
            producer,
            Inspector(connection, keys),
            JobSearch(connection, keys, clock),
            Failures(connection, keys, clock),
            admin,
            audit,
        )
    finally:
        await connection.close()

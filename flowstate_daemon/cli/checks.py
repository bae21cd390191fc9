"""What `check` looks at: each finding with its grade and, where something is wrong, the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config
from flowstate_daemon.base.errors import Outage
from flowstate_daemon.database.pool import ping
from flowstate_daemon.delivery.resend_gateway import Check, ResendGateway, ResendSettings, Standing
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.server import Server, look_at_server

SLOW_MS = 20.0
HOME = frozenset({"localhost", "127.0.0.1", "::1"})


class Grade(Enum):
    """How a finding is graded."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of `check`."""

    subject: str
    grade: Grade
    finding: str
    remedy: str = ""
    unreachable: bool = False


async def examine(config: Config) -> list[Verdict]:
    """Look at everything the daemon depends on, in the order of a mail's way."""
    return [
        judge_links(config),
        *await _redis(config),
        await _postgres(config),
        await _provider(config),
    ]


def judge_links(config: Config) -> Verdict:
    """A configuration without mistakes may still send links that work on the developer's machine only. Pure."""
    host = urlsplit(config.mail.frontend_url).hostname
    if config.resend.api_key is not None and host in HOME:
        words = f"links in real mails will lead to {config.mail.frontend_url}"
        return Verdict("configuration", Grade.WARN, words, "set FRONTEND_URL to where people reach FlowState")
    return Verdict("configuration", Grade.OK, "complete")


async def _redis(config: Config) -> list[Verdict]:
    keys = Keys(config.queue.prefix, config.queue.name)
    connection = Connection(config.redis.url.get_secret_value(), client_name="flowstate-daemon-cli")
    try:
        server = await look_at_server(connection, Clock())
        return [*judge_server(server), await _queue(Inspector(connection, keys), keys)]
    except Outage as outage:
        return [Verdict("redis", Grade.FAIL, outage.reason, unreachable=True)]
    finally:
        await connection.close()


def judge_server(server: Server) -> list[Verdict]:
    """What a mail queue needs of its server. Pure."""
    if server.too_old:
        first = Verdict("redis", Grade.FAIL, f"{server.title} is too old", "use Redis 6.2 or newer, or Valkey")
    else:
        first = Verdict("redis", Grade.OK, f"{server.title}, {server.round_trip_ms} ms away")
    found = [first]
    if server.role == "slave":
        found.append(Verdict("redis role", Grade.FAIL, "this is a replica", "point REDIS_URL at the primary"))
    if server.maxmemory_policy not in {None, "noeviction"}:
        words = f"maxmemory-policy is {server.maxmemory_policy}: jobs may be evicted"
        found.append(Verdict("redis memory", Grade.WARN, words, "set maxmemory-policy noeviction"))
    if server.append_only is False:
        words = "appendonly is off: a crash of Redis loses the newest jobs"
        found.append(Verdict("redis persistence", Grade.WARN, words, "set appendonly yes"))
    if server.round_trip_ms > SLOW_MS:
        words = f"{server.round_trip_ms} ms a round trip"
        found.append(Verdict("redis latency", Grade.WARN, words, "run the daemon near its Redis"))
    return found


async def _queue(inspector: Inspector, keys: Keys) -> Verdict:
    seen = await inspector.snapshot()
    words = f"{keys.base} has {seen.wait} waiting, {seen.active} active, {seen.failed} failed"
    if seen.is_paused:
        return Verdict("queue", Grade.WARN, f"{words}, and is paused", "flowstate-daemon queue resume")
    return Verdict("queue", Grade.OK, words)


async def _postgres(config: Config) -> Verdict:
    url = config.database.url
    if url is None:
        return Verdict("postgres", Grade.OK, "DATABASE_URL is not set: nothing that needs Postgres is on")
    try:
        answer = await ping(url.get_secret_value())
    except Outage as outage:
        return Verdict("postgres", Grade.FAIL, outage.reason, unreachable=True)
    return Verdict("postgres", Grade.OK, f"PostgreSQL {answer.version}, {answer.latency_ms:.1f} ms away")


async def _provider(config: Config) -> Verdict:
    key = config.resend.api_key
    if key is None:
        words = f"no RESEND_API_KEY: mails are written to {config.outbox.folder}"
        return Verdict("provider", Grade.WARN, words, "set RESEND_API_KEY to send for real")
    gateway = ResendGateway(ResendSettings(key.get_secret_value(), config.resend.api_url, config.resend.timeout_s))
    await gateway.open()
    try:
        found = await gateway.check()
    finally:
        await gateway.close()
    return judge_key(found, config)


def judge_key(found: Check, config: Config) -> Verdict:
    """What the provider's word on the key means for the sender's domain. Pure."""
    if not found.usable:
        unreachable = found.standing is Standing.UNKNOWN
        words = f"{config.resend.api_url}: {found.standing.value}: {found.reason}"
        return Verdict("provider", Grade.FAIL, words, "check RESEND_API_KEY and RESEND_API_URL", unreachable)
    domain = config.mail.from_address.rpartition("@")[2].rstrip(">")
    if found.domains and found.domains.get(domain) != "verified":
        words = f"the domain {domain} is {found.domains.get(domain, 'unknown')} at the provider"
        return Verdict("provider", Grade.FAIL, words, "verify the domain, or change RESEND_FROM_EMAIL")
    return Verdict("provider", Grade.OK, f"{config.resend.api_url}: the key has {found.standing.value}")

"""Checks of Redis and the queue: server, memory, persistence, permissions, other workers.

`redis_client` and `queue` read the data; the `evaluate_…` functions are pure.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.base.shared_clock import CLOCK_REMEDY
from flowstate_daemon.cli.check.result import CheckResult, Level, fail, ok, unreachable, warn
from flowstate_daemon.config.loader import Config
from flowstate_daemon.daemon.risk_monitor import (
    LEDGER_RISK,
    WITHOUT_LEDGER_RISK,
    ledger_was_used,
    queue_was_used,
    unused_queue_risk,
)
from flowstate_daemon.queue.bullmq import BullMqTraces, find_bullmq
from flowstate_daemon.queue.inspector import Inspector, Snapshot, Workers
from flowstate_daemon.redis_client.connection import from_settings
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.permissions import PermissionCheck, Permissions
from flowstate_daemon.redis_client.server_info import (
    MemoryInfo,
    PersistenceInfo,
    ServerInfo,
    inspect_server,
    memory_risk,
    persistence_risk,
    pin_cluster_slot,
)

SLOW_MS = 20.0
MEMORY_WARN_SHARE = 0.8  # share of maxmemory
MEMORY_FAIL_SHARE = 0.98
SKEW_S = 1.0  # Bull uses the clocks of its clients
MAX_SKEW_S = 30.0
PROVIDER_CONSOLE_HINT = "check in your provider's console"
PERMISSIONS, OTHER_CLIENTS = "redis permissions", "other workers"
NOT_CHECKED_IN_SHADOW = "not checked: shadow mode only reads"


async def check_redis(config: Config) -> list[CheckResult]:
    """The server, this user's permissions, and the queue."""
    keys = Keys(config.queue.prefix, config.queue.name)
    connection = from_settings(config.redis, client_name="flowstate-daemon-cli")
    try:
        await connection.open()
        await pin_cluster_slot(connection, keys)
        server = await inspect_server(connection, Clock())
        limit_s = config.health.max_clock_difference_s
        results = [*evaluate_server(server, limit_s), *evaluate_target(server, keys)]
        if any(result.level is Level.FAIL for result in results):
            return results  # further checks of the wrong server mean nothing
        user = urlsplit(config.redis.url.get_secret_value()).username or "default"
        shadow = config.queue.mode == "shadow"
        # The permission check writes a key of its own, which shadow mode must not do.
        results.append(
            ok(PERMISSIONS, NOT_CHECKED_IN_SHADOW)
            if shadow
            else evaluate_permissions(await PermissionCheck(connection, keys).run(), user, keys)
        )
        if results[-1].level is Level.OK:
            inspector = Inspector(connection, keys)
            used = await queue_was_used(connection, keys)
            results.append(evaluate_queue(await inspector.snapshot(), keys, used=used))
            results += evaluate_ledger(config, was_used=await ledger_was_used(connection, keys))
            results += evaluate_bullmq(await find_bullmq(connection, keys), keys)
            others = await inspector.foreign_workers()
            results.append(evaluate_shadow_target(others) if shadow else evaluate_bull_workers(others, keys))
    except ConfigError as error:
        return [CheckResult("redis cluster", Level.FAIL, reason, misconfigured=True) for reason in error.errors]
    except StoreUnavailableError as outage:
        return [unreachable("redis", outage.reason)]
    else:
        return results
    finally:
        await connection.close()


def evaluate_server(server: ServerInfo, max_clock_difference_s: float = MAX_SKEW_S) -> list[CheckResult]:
    """The version, latency, memory, persistence and clock of the server. Pure."""
    results = [ok("redis", server.title)]
    if server.too_old:
        results = [fail("redis", f"{server.title} is too old", "use Redis 6.2 or newer, or Valkey")]
    results += [
        evaluate_latency(server.round_trip_ms),
        evaluate_memory(server.memory),
        evaluate_persistence(server.persistence),
    ]
    if server.skew_s is not None:
        results.append(evaluate_clock_skew("redis clock", server.skew_s, max_clock_difference_s))
    return results


def evaluate_target(server: ServerInfo, keys: Keys) -> list[CheckResult]:
    """Whether this is the primary; and a line for a cluster. Pure."""
    if server.role == "slave":
        return [fail("redis role", "this is a replica, which rejects writes", "point REDIS_URL at the primary")]
    return [ok("redis cluster", f"cluster; all keys of {keys.base} are in one hash slot")] if server.cluster else []


def evaluate_latency(round_trip_ms: float) -> CheckResult:
    text = f"{round_trip_ms} ms per round trip (median)"
    if round_trip_ms > SLOW_MS:
        return warn("redis latency", text, "run the daemon close to its Redis: same region, same network")
    return ok("redis latency", text)


def evaluate_memory(memory: MemoryInfo) -> CheckResult:
    """Jobs must not be evicted, and there must be free memory. Pure."""
    name, usage = "redis memory", _memory_usage(memory)
    if memory.used_share is not None and memory.used_share >= MEMORY_FAIL_SHARE:
        return fail(name, f"full: {usage}", "raise maxmemory, or: flowstate-daemon queue clean failed --grace 86400")
    if (risk := memory_risk(memory)) is not None:
        return warn(name, risk.finding, risk.remedy)
    if memory.policy is None:
        return warn(
            name,
            "maxmemory-policy is not visible",
            f"{PROVIDER_CONSOLE_HINT} that it is noeviction",
        )
    if memory.used_share is not None and memory.used_share >= MEMORY_WARN_SHARE:
        return warn(name, f"nearly full: {usage}", "raise maxmemory before writes are refused")
    return ok(name, f"noeviction, {usage}")


def _memory_usage(memory: MemoryInfo) -> str:
    if memory.used is None:
        return "memory usage is not visible"
    used = f"{memory.used / 2**20:.0f} MiB used"
    return f"{used} of {memory.limit / 2**20:.0f} MiB" if memory.limit else f"{used}, no limit set"


def evaluate_persistence(persistence: PersistenceInfo) -> CheckResult:
    """How much a crash of Redis would lose. Pure."""
    name = "redis persistence"
    if persistence.write_error:
        return fail(name, "the last write to its disk failed", "see the Redis log; the disk may be full")
    if persistence.append_only is None:
        return warn(name, "not visible", f"{PROVIDER_CONSOLE_HINT} that an append-only file is enabled")
    if (risk := persistence_risk(persistence)) is not None:
        return warn(name, risk.finding, risk.remedy)
    return ok(name, f"appendonly yes, appendfsync {persistence.fsync or 'not visible'}")


def evaluate_clock_skew(name: str, skew_s: float, limit_s: float = MAX_SKEW_S) -> CheckResult:
    """Delays, locks and the lifetimes of codes depend on the clocks of several machines. Pure."""
    text = f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's clock"
    if abs(skew_s) > limit_s:
        return fail(name, f"{text}: `run` plans nothing, and codes do not expire", CLOCK_REMEDY)
    if abs(skew_s) > SKEW_S:
        return warn(name, text, CLOCK_REMEDY)
    return ok(name, f"{abs(skew_s):.2f} s off this machine's clock")


def evaluate_permissions(permissions: Permissions, user: str, keys: Keys) -> CheckResult:
    """The missing permissions and the ACL command that grants them; `user` is the user name in the URL. Pure."""
    user = permissions.user or user
    if permissions.complete:
        return ok(PERMISSIONS, f"{user} has all permissions ({permissions.checked} operations checked)")
    missing = [*permissions.commands]
    missing += [f"the keys {keys.base}*"] if permissions.keys else []
    missing += [f"the channels {keys.base}*"] if permissions.channels else []
    grants = [f"+{name}" for name in permissions.commands]
    grants += [f"'~{keys.base}*'"] if permissions.keys else []
    grants += [f"'&{keys.base}*'"] if permissions.channels else []
    command = f"ACL SETUSER {user} {' '.join(grants)}"
    return fail(PERMISSIONS, f"{user} lacks {', '.join(missing)}", command)


def evaluate_ledger(config: Config, *, was_used: bool) -> list[CheckResult]:
    """A line when this queue had a ledger, which knows who must not get emails, and has none now. Pure."""
    if config.database.url is not None or config.delivery != "resend" or not was_used:
        return []
    if config.database.without_ledger:
        return [warn(WITHOUT_LEDGER_RISK.name, WITHOUT_LEDGER_RISK.finding, WITHOUT_LEDGER_RISK.remedy)]
    return [fail(LEDGER_RISK.name, LEDGER_RISK.finding, LEDGER_RISK.remedy)]


def evaluate_queue(snapshot: Snapshot, keys: Keys, *, used: bool = True) -> CheckResult:
    text = f"{keys.base} has {snapshot.wait} waiting, {snapshot.active} active, {snapshot.failed} failed"
    if snapshot.is_paused:
        return warn("queue", f"{text}; it is paused", "flowstate-daemon queue resume")
    if not used:
        risk = unused_queue_risk(keys)
        return warn(risk.name, risk.finding, risk.remedy)
    return ok("queue", text)


def evaluate_bullmq(traces: BullMqTraces, keys: Keys) -> list[CheckResult]:
    """A line when BullMQ uses the name of the queue. Pure."""
    return [fail("bullmq", traces.reason(keys), traces.remedy(keys))] if traces.found else []


def evaluate_bull_workers(workers: Workers, keys: Keys) -> CheckResult:
    """Warn about Bull workers: they can share the queue, but usually they should have been replaced. Pure."""
    name = OTHER_CLIENTS
    if workers.note is not None:
        remedy = "make sure that the backend has no @Processor for this queue, or that sharing is intended"
        return warn(name, f"not visible: {workers.note}", remedy)
    if not workers.clients:
        return ok(name, "no Bull worker of the backend is connected to this queue")
    addresses = ", ".join(sorted(client.address for client in workers.clients))
    text = f"{len(workers.clients)} Bull worker(s) on {keys.base} share its jobs with this daemon, from {addresses}"
    remedy = "remove the @Processor of this queue from the backend (docs/takeover.md), or let them share the queue"
    return warn(name, text, remedy)


def evaluate_shadow_target(workers: Workers) -> CheckResult:
    """Shadow mode needs a worker to compare with. Pure."""
    if workers.note is not None:
        return warn(OTHER_CLIENTS, f"not visible: {workers.note}", "make sure that the backend's worker is running")
    if not workers.clients:
        text = "no Bull worker of the backend is connected to this queue: there is nothing to compare with"
        return warn(OTHER_CLIENTS, text, "start the backend's worker, or set FLOWSTATE_MODE=send")
    return ok(OTHER_CLIENTS, f"{len(workers.clients)} Bull worker(s) on this queue to compare with")

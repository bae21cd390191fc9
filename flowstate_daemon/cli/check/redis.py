"""What `check` says of Redis and of the queue in it. Judging is pure; looking is done by the queue's own room."""

from __future__ import annotations

from urllib.parse import urlsplit

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.cli.check.result import CheckResult, Level, fail, ok, unreachable, warn
from flowstate_daemon.config.loader import Config
from flowstate_daemon.queue.inspector import Inspector, Snapshot, Workers
from flowstate_daemon.redis_client.connection import from_settings
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.permissions import PermissionCheck, Permissions
from flowstate_daemon.redis_client.server_info import (
    MemoryInfo,
    PersistenceInfo,
    ServerInfo,
    inspect_server,
    pin_cluster_slot,
)

SLOW_MS = 20.0
MEMORY_WARN_SHARE = 0.8  # of the memory: time to look
MEMORY_FAIL_SHARE = 0.98
SKEW_S = 1.0  # Bull takes its times from its clients' clocks
PROVIDER_CONSOLE_HINT = "your provider's console tells"
PERMISSIONS, OTHER_CLIENTS = "redis rights", "other workers"
NOT_CHECKED_IN_SHADOW = "not tried: a shadow only reads"
CLOCK_REMEDY = "let both machines keep time (chrony, systemd-timesyncd)"


async def check_redis(config: Config) -> list[CheckResult]:
    """Everything about the server, this user's rights on it, and the queue."""
    keys = Keys(config.queue.prefix, config.queue.name)
    connection = from_settings(config.redis, client_name="flowstate-daemon-cli")
    try:
        await pin_cluster_slot(connection, keys)
        server = await inspect_server(connection, Clock())
        found = [*evaluate_server(server), *evaluate_target(server, keys)]
        if any(result.grade is Level.FAIL for result in found):
            return found  # what was asked of the wrong server says nothing
        user = urlsplit(config.redis.url.get_secret_value()).username or "default"
        shadow = config.queue.mode == "shadow"
        # Rights are tried in earnest, on a key of their own: a shadow writes not even that.
        found.append(
            ok(PERMISSIONS, NOT_CHECKED_IN_SHADOW)
            if shadow
            else evaluate_permissions(await PermissionCheck(connection, keys).run(), user, keys)
        )
        if found[-1].grade is Level.OK:
            inspector = Inspector(connection, keys)
            found.append(evaluate_queue(await inspector.snapshot(), keys))
            others = await inspector.foreign_workers()
            found.append(evaluate_shadow_target(others) if shadow else evaluate_bull_workers(others, keys))
    except ConfigError as error:
        return [CheckResult("redis cluster", Level.FAIL, reason, misconfigured=True) for reason in error.errors]
    except StoreUnavailableError as outage:
        return [unreachable("redis", outage.reason)]
    else:
        return found
    finally:
        await connection.close()


def evaluate_server(server: ServerInfo) -> list[CheckResult]:
    """What a mail queue needs of its server. Pure."""
    found = [ok("redis", server.title)]
    if server.too_old:
        found = [fail("redis", f"{server.title} is too old", "use Redis 6.2 or newer, or Valkey")]
    found += [
        evaluate_latency(server.round_trip_ms),
        evaluate_memory(server.memory),
        evaluate_persistence(server.persistence),
    ]
    if server.skew_s is not None:
        found.append(evaluate_clock_skew("redis clock", server.skew_s))
    return found


def evaluate_target(server: ServerInfo, keys: Keys) -> list[CheckResult]:
    """Is it the right server of several? Pure."""
    if server.role == "slave":
        return [fail("redis role", "this is a replica, which takes no writes", "point REDIS_URL at the primary")]
    return [ok("redis cluster", f"a cluster; {keys.base} stays in one slot")] if server.cluster else []


def evaluate_latency(round_trip_ms: float) -> CheckResult:
    text = f"{round_trip_ms} ms a round trip (median)"
    if round_trip_ms > SLOW_MS:
        return warn("redis latency", text, "run the daemon near its Redis: the same region, the same network")
    return ok("redis latency", text)


def evaluate_memory(memory: MemoryInfo) -> CheckResult:
    """Jobs must not be evicted, and there must be room for them. Pure."""
    subject, room = "redis memory", _memory_usage(memory)
    policy = memory.policy or "not visible"
    if memory.used_share is not None and memory.used_share >= MEMORY_FAIL_SHARE:
        return fail(subject, f"full: {room}", "raise maxmemory, or: flowstate-daemon queue clean failed --grace 86400")
    if memory.evicted and policy != "noeviction":
        text = f"maxmemory-policy is {policy}, and {memory.evicted} keys were evicted: jobs may be among them"
        return warn(subject, text, "set maxmemory-policy noeviction, and raise maxmemory")
    if memory.policy is None:
        return warn(
            subject,
            "maxmemory-policy is not visible",
            f"{PROVIDER_CONSOLE_HINT} whether it is noeviction, as it must be",
        )
    if memory.policy != "noeviction":
        text = f"maxmemory-policy is {policy}: jobs may be evicted"
        return warn(subject, text, "set maxmemory-policy noeviction")
    if memory.used_share is not None and memory.used_share >= MEMORY_WARN_SHARE:
        return warn(subject, f"nearly full: {room}", "raise maxmemory before writes are refused")
    return ok(subject, f"noeviction, {room}")


def _memory_usage(memory: MemoryInfo) -> str:
    if memory.used is None:
        return "how much is used is not visible"
    used = f"{memory.used / 2**20:.0f} MiB used"
    return f"{used} of {memory.limit / 2**20:.0f} MiB" if memory.limit else f"{used}, no limit set"


def evaluate_persistence(kept: PersistenceInfo) -> CheckResult:
    """What a crash of Redis would cost. Pure."""
    subject = "redis persistence"
    if kept.write_error:
        return fail(subject, "the last write to its disk failed", "see Redis's log; is its disk full?")
    if kept.append_only is None:
        return warn(
            subject, "not visible", f"{PROVIDER_CONSOLE_HINT} whether it keeps an append-only file, as it should"
        )
    if not kept.append_only:
        text = {
            True: "appendonly is off: a crash loses all since the last snapshot",
            False: "appendonly is off, and there are no snapshots: a restart loses every job",
            None: "appendonly is off: a crash loses the newest jobs",
        }[kept.snapshots]
        return warn(subject, text, "set appendonly yes, appendfsync everysec")
    if kept.fsync == "no":
        text = "appendfsync is no: a crash of the machine loses up to half a minute"
        return warn(subject, text, "set appendfsync everysec")
    return ok(subject, f"appendonly yes, appendfsync {kept.fsync or 'not visible'}")


def evaluate_clock_skew(subject: str, skew_s: float) -> CheckResult:
    """Delays, lifetimes of codes and locks are counted on several machines. Pure."""
    if abs(skew_s) > SKEW_S:
        text = f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's clock"
        return warn(subject, text, CLOCK_REMEDY)
    return ok(subject, f"{abs(skew_s):.2f} s from this machine's clock")


def evaluate_permissions(rights: Permissions, user: str, keys: Keys) -> CheckResult:
    """What an administrator must grant, in his own words; `user` as the URL names him. Pure."""
    user = rights.user or user
    if rights.complete:
        return ok(PERMISSIONS, f"{user} may do all that is needed ({rights.checked} operations tried)")
    lacks = [*rights.commands]
    lacks += [f"the keys {keys.base}*"] if rights.keys else []
    lacks += [f"the channels {keys.base}*"] if rights.channels else []
    grants = [f"+{name}" for name in rights.commands]
    grants += [f"'~{keys.base}*'"] if rights.keys else []
    grants += [f"'&{keys.base}*'"] if rights.channels else []
    line = f"ACL SETUSER {user} {' '.join(grants)}"
    return fail(PERMISSIONS, f"{user} lacks {', '.join(lacks)}", line)


def evaluate_queue(seen: Snapshot, keys: Keys) -> CheckResult:
    text = f"{keys.base} has {seen.wait} waiting, {seen.active} active, {seen.failed} failed"
    if seen.is_paused:
        return warn("queue", f"{text}, and is paused", "flowstate-daemon queue resume")
    return ok("queue", text)


def evaluate_bull_workers(workers: Workers, keys: Keys) -> CheckResult:
    """Bull's own workers may share the queue; whoever meant to have replaced them should know. Pure."""
    subject = OTHER_CLIENTS
    if workers.note is not None:
        remedy = "make sure that the backend has no @Processor for this queue, or that it may share it"
        return warn(subject, f"not visible: {workers.note}", remedy)
    if not workers.clients:
        return ok(subject, "no Bull worker of the backend is on this queue")
    places = ", ".join(sorted(client.address for client in workers.clients))
    text = f"{len(workers.clients)} Bull worker(s) on {keys.base} share the mails with this daemon, from {places}"
    remedy = "remove the @Processor of this queue from the backend (docs/takeover.md), or let them share"
    return warn(subject, text, remedy)


def evaluate_shadow_target(workers: Workers) -> CheckResult:
    """A shadow compares itself with somebody. Pure."""
    if workers.note is not None:
        return warn(OTHER_CLIENTS, f"not visible: {workers.note}", "make sure that the backend's worker runs")
    if not workers.clients:
        text = "no Bull worker of the backend is on this queue: there is nothing to compare with"
        return warn(OTHER_CLIENTS, text, "start the backend's worker, or set FLOWSTATE_MODE=send")
    return ok(OTHER_CLIENTS, f"{len(workers.clients)} Bull worker(s) on this queue to compare with")

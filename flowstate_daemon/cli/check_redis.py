"""What `check` says of Redis and of the queue in it. Judging is pure; looking is done by the queue's own room."""

from __future__ import annotations

from urllib.parse import urlsplit

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config
from flowstate_daemon.base.errors import ConfigError, Outage
from flowstate_daemon.cli.verdict import Grade, Verdict, fail, ok, unreachable, warn
from flowstate_daemon.queue.connection import connection_to
from flowstate_daemon.queue.inspector import Inspector, Snapshot, Workers
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.rights import Rights, Trial
from flowstate_daemon.queue.server import Memory, Persistence, Server, look_at_server, settle_in_cluster

SLOW_MS = 20.0
NARROW = 0.8  # of the memory: time to look
FULL = 0.98
SKEW_S = 1.0  # Bull takes its times from its clients' clocks
CONSOLE = "your provider's console tells"
RIGHTS, OTHERS = "redis rights", "other workers"
READING = "not tried: a shadow only reads"
KEEP_TIME = "let both machines keep time (chrony, systemd-timesyncd)"


async def examine_redis(config: Config) -> list[Verdict]:
    """Everything about the server, this user's rights on it, and the queue."""
    keys = Keys(config.queue.prefix, config.queue.name)
    connection = connection_to(config.redis, client_name="flowstate-daemon-cli")
    try:
        await settle_in_cluster(connection, keys)
        server = await look_at_server(connection, Clock())
        found = [*judge_server(server), *judge_place(server, keys)]
        if any(verdict.grade is Grade.FAIL for verdict in found):
            return found  # what was asked of the wrong server says nothing
        user = urlsplit(config.redis.url.get_secret_value()).username or "default"
        shadow = config.queue.mode == "shadow"
        # Rights are tried in earnest, on a key of their own: a shadow writes not even that.
        found.append(ok(RIGHTS, READING) if shadow else judge_rights(await Trial(connection, keys).run(), user, keys))
        if found[-1].grade is Grade.OK:
            inspector = Inspector(connection, keys)
            found.append(judge_queue(await inspector.snapshot(), keys))
            others = await inspector.strangers()
            found.append(judge_company(others) if shadow else judge_strangers(others, keys))
    except ConfigError as error:
        return [Verdict("redis cluster", Grade.FAIL, reason, misconfigured=True) for reason in error.mistakes]
    except Outage as outage:
        return [unreachable("redis", outage.reason)]
    else:
        return found
    finally:
        await connection.close()


def judge_server(server: Server) -> list[Verdict]:
    """What a mail queue needs of its server. Pure."""
    found = [ok("redis", server.title)]
    if server.too_old:
        found = [fail("redis", f"{server.title} is too old", "use Redis 6.2 or newer, or Valkey")]
    found += [judge_latency(server.round_trip_ms), judge_memory(server.memory), judge_persistence(server.persistence)]
    if server.skew_s is not None:
        found.append(judge_clock("redis clock", server.skew_s))
    return found


def judge_place(server: Server, keys: Keys) -> list[Verdict]:
    """Is it the right server of several? Pure."""
    if server.role == "slave":
        return [fail("redis role", "this is a replica, which takes no writes", "point REDIS_URL at the primary")]
    return [ok("redis cluster", f"a cluster; {keys.base} stays in one slot")] if server.cluster else []


def judge_latency(round_trip_ms: float) -> Verdict:
    words = f"{round_trip_ms} ms a round trip (median)"
    if round_trip_ms > SLOW_MS:
        return warn("redis latency", words, "run the daemon near its Redis: the same region, the same network")
    return ok("redis latency", words)


def judge_memory(memory: Memory) -> Verdict:
    """Jobs must not be evicted, and there must be room for them. Pure."""
    subject, room = "redis memory", _room(memory)
    policy = memory.policy or "not visible"
    if memory.share is not None and memory.share >= FULL:
        return fail(subject, f"full: {room}", "raise maxmemory, or: flowstate-daemon queue clean failed --grace 86400")
    if memory.evicted and policy != "noeviction":
        words = f"maxmemory-policy is {policy}, and {memory.evicted} keys were evicted: jobs may be among them"
        return warn(subject, words, "set maxmemory-policy noeviction, and raise maxmemory")
    if memory.policy is None:
        return warn(subject, "maxmemory-policy is not visible", f"{CONSOLE} whether it is noeviction, as it must be")
    if memory.policy != "noeviction":
        words = f"maxmemory-policy is {policy}: jobs may be evicted"
        return warn(subject, words, "set maxmemory-policy noeviction")
    if memory.share is not None and memory.share >= NARROW:
        return warn(subject, f"nearly full: {room}", "raise maxmemory before writes are refused")
    return ok(subject, f"noeviction, {room}")


def _room(memory: Memory) -> str:
    if memory.used is None:
        return "how much is used is not visible"
    used = f"{memory.used / 2**20:.0f} MiB used"
    return f"{used} of {memory.limit / 2**20:.0f} MiB" if memory.limit else f"{used}, no limit set"


def judge_persistence(kept: Persistence) -> Verdict:
    """What a crash of Redis would cost. Pure."""
    subject = "redis persistence"
    if kept.write_error:
        return fail(subject, "the last write to its disk failed", "see Redis's log; is its disk full?")
    if kept.append_only is None:
        return warn(subject, "not visible", f"{CONSOLE} whether it keeps an append-only file, as it should")
    if not kept.append_only:
        words = {
            True: "appendonly is off: a crash loses all since the last snapshot",
            False: "appendonly is off, and there are no snapshots: a restart loses every job",
            None: "appendonly is off: a crash loses the newest jobs",
        }[kept.snapshots]
        return warn(subject, words, "set appendonly yes, appendfsync everysec")
    if kept.fsync == "no":
        words = "appendfsync is no: a crash of the machine loses up to half a minute"
        return warn(subject, words, "set appendfsync everysec")
    return ok(subject, f"appendonly yes, appendfsync {kept.fsync or 'not visible'}")


def judge_clock(subject: str, skew_s: float) -> Verdict:
    """Delays, lifetimes of codes and locks are counted on several machines. Pure."""
    if abs(skew_s) > SKEW_S:
        words = f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's clock"
        return warn(subject, words, KEEP_TIME)
    return ok(subject, f"{abs(skew_s):.2f} s from this machine's clock")


def judge_rights(rights: Rights, user: str, keys: Keys) -> Verdict:
    """What an administrator must grant, in his own words; `user` as the URL names him. Pure."""
    user = rights.user or user
    if rights.complete:
        return ok(RIGHTS, f"{user} may do all that is needed ({rights.tried} operations tried)")
    lacks = [*rights.commands]
    lacks += [f"the keys {keys.base}*"] if rights.keys else []
    lacks += [f"the channels {keys.base}*"] if rights.channels else []
    grants = [f"+{name}" for name in rights.commands]
    grants += [f"'~{keys.base}*'"] if rights.keys else []
    grants += [f"'&{keys.base}*'"] if rights.channels else []
    line = f"ACL SETUSER {user} {' '.join(grants)}"
    return fail(RIGHTS, f"{user} lacks {', '.join(lacks)}", line)


def judge_queue(seen: Snapshot, keys: Keys) -> Verdict:
    words = f"{keys.base} has {seen.wait} waiting, {seen.active} active, {seen.failed} failed"
    if seen.is_paused:
        return warn("queue", f"{words}, and is paused", "flowstate-daemon queue resume")
    return ok("queue", words)


def judge_strangers(workers: Workers, keys: Keys) -> Verdict:
    """Bull's own workers may share the queue; whoever meant to have replaced them should know. Pure."""
    subject = OTHERS
    if workers.note is not None:
        remedy = "make sure that the backend has no @Processor for this queue, or that it may share it"
        return warn(subject, f"not visible: {workers.note}", remedy)
    if not workers.found:
        return ok(subject, "no Bull worker of the backend is on this queue")
    places = ", ".join(sorted(client.address for client in workers.found))
    words = f"{len(workers.found)} Bull worker(s) on {keys.base} share the mails with this daemon, from {places}"
    remedy = "remove the @Processor of this queue from the backend (docs/takeover.md), or let them share"
    return warn(subject, words, remedy)


def judge_company(workers: Workers) -> Verdict:
    """A shadow compares itself with somebody. Pure."""
    if workers.note is not None:
        return warn(OTHERS, f"not visible: {workers.note}", "make sure that the backend's worker runs")
    if not workers.found:
        words = "no Bull worker of the backend is on this queue: there is nothing to compare with"
        return warn(OTHERS, words, "start the backend's worker, or set FLOWSTATE_MODE=send")
    return ok(OTHERS, f"{len(workers.found)} Bull worker(s) on this queue to compare with")

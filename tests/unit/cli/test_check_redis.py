"""The checks of Redis, as pure functions of what the server reports."""

from __future__ import annotations

import pytest

from flowstate_daemon.cli.check.redis import (
    evaluate_bull_workers,
    evaluate_clock_skew,
    evaluate_latency,
    evaluate_memory,
    evaluate_permissions,
    evaluate_persistence,
    evaluate_queue,
    evaluate_server,
    evaluate_shadow_target,
    evaluate_target,
)
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.queue.inspector import Snapshot, Workers
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.permissions import Permissions
from flowstate_daemon.redis_client.server_info import (
    ClientInfo,
    MemoryInfo,
    PersistenceInfo,
    ServerInfo,
    foreign_workers,
)

KEYS = Keys()
MIB = 2**20
HIDDEN = "not visible"


@pytest.mark.parametrize(
    ("version", "level"),
    [((6, 0, 16), Level.FAIL), ((6, 2, 0), Level.OK), ((7, 4), Level.OK), ((9, 1, 2), Level.OK), ((0,), Level.OK)],
)
def test_versions_before_6_2_fail(version: tuple[int, ...], level: Level) -> None:
    """BLMOVE exists since 6.2; a server that hides its version passes."""
    assert evaluate_server(ServerInfo("Redis", version))[0].level is level


@pytest.mark.parametrize(
    ("memory", "level", "text"),
    [
        (MemoryInfo("noeviction", 10 * MIB, 0), Level.OK, "no limit"),
        (MemoryInfo("noeviction", 10 * MIB, 100 * MIB), Level.OK, "10 MiB used of 100 MiB"),
        (MemoryInfo("noeviction", 85 * MIB, 100 * MIB), Level.WARN, "nearly full"),
        (MemoryInfo("noeviction", 99 * MIB, 100 * MIB), Level.FAIL, "full"),
        (MemoryInfo("allkeys-lru", 99 * MIB, 100 * MIB), Level.FAIL, "full"),
        (MemoryInfo("volatile-lru", 1, 0), Level.WARN, "may be evicted"),
        (MemoryInfo("allkeys-lru", 1, 0, evicted=7), Level.WARN, "7 keys were evicted"),
        (MemoryInfo("noeviction", 1, 0, evicted=7), Level.OK, "noeviction"),
        (MemoryInfo(), Level.WARN, HIDDEN),
    ],
)
def test_level_of_memory(memory: MemoryInfo, level: Level, text: str) -> None:
    """It depends on the eviction policy, evicted keys, and free memory."""
    result = evaluate_memory(memory)
    assert result.level is level
    assert text in result.message


@pytest.mark.parametrize(
    ("persistence", "level", "text"),
    [
        (PersistenceInfo(append_only=True, fsync="everysec"), Level.OK, "everysec"),
        (PersistenceInfo(append_only=True), Level.OK, HIDDEN),
        (PersistenceInfo(append_only=True, fsync="no"), Level.WARN, "half a minute"),
        (PersistenceInfo(append_only=False, snapshots=True), Level.WARN, "since the last snapshot"),
        (PersistenceInfo(append_only=False, snapshots=False), Level.WARN, "every job"),
        (PersistenceInfo(append_only=False), Level.WARN, "newest jobs"),
        (PersistenceInfo(), Level.WARN, HIDDEN),
        (PersistenceInfo(append_only=True, fsync="everysec", write_error=True), Level.FAIL, "disk"),
    ],
)
def test_level_of_persistence(persistence: PersistenceInfo, level: Level, text: str) -> None:
    """Each mode warns if a crash could lose more than a second; the message says how much."""
    result = evaluate_persistence(persistence)
    assert result.level is level
    assert text in result.message


@pytest.mark.parametrize(("skew_s", "level"), [(0.4, Level.OK), (-0.9, Level.OK), (1.5, Level.WARN), (-60, Level.FAIL)])
def test_clock_skew_above_a_second_warns(skew_s: float, level: Level) -> None:
    """Bull stores the times of its clients' clocks."""
    assert evaluate_clock_skew("redis clock", skew_s).level is level


@pytest.mark.parametrize(("round_trip_ms", "level"), [(0.3, Level.OK), (45.0, Level.WARN)])
def test_high_latency_warns(round_trip_ms: float, level: Level) -> None:
    """Each email needs a few round trips."""
    assert evaluate_latency(round_trip_ms).level is level


def test_replica_fails() -> None:
    """A replica rejects every claim."""
    [result] = evaluate_target(ServerInfo("Redis", (7,), role="slave"), KEYS)
    assert result.level is Level.FAIL


def test_server_without_cluster_adds_no_line() -> None:
    """The usual case is not mentioned."""
    assert evaluate_target(ServerInfo("Redis", (7,), role="master", cluster=False), KEYS) == []


def test_missing_permissions_have_an_acl_remedy() -> None:
    """The remedy is the command that an administrator has to run."""
    result = evaluate_permissions(Permissions("mailer", ("lrem", "zadd"), keys=True, channels=True), "url-user", KEYS)
    assert result.remedy == "ACL SETUSER mailer +lrem +zadd '~bull:email:*' '&bull:email:*'"


def test_user_of_the_url_is_named_when_whoami_is_denied() -> None:
    """ACL WHOAMI itself requires a permission."""
    assert "ACL SETUSER url-user +eval" in evaluate_permissions(Permissions(None, ("eval",)), "url-user", KEYS).remedy


def test_paused_queue_warns() -> None:
    """No emails would be sent; the remedy is to resume the queue."""
    snapshot = Snapshot(1, 0, 0, 0, 0, 2, True, None, None, 0, None)
    result = evaluate_queue(snapshot, KEYS)
    assert result.level is Level.WARN
    assert "resume" in result.remedy


def client(name: str) -> ClientInfo:
    return ClientInfo(name, "10.0.0.7:4711", 1, 1)


def test_foreign_workers_are_bull_workers_only() -> None:
    """The client name of a Bull worker is the queue's; a daemon's also has an instance id and a token."""
    unnamed, named = client("bull:ZW1haWw="), client("bull:ZW1haWw=:w1")
    daemon, prefixed = client(f"bull:ZW1haWw=:vm-1/{'a' * 32}"), client(f"flowstate:bull:ZW1haWw=:vm-1/{'a' * 32}")
    assert foreign_workers([unnamed, daemon, prefixed, client("bull:other"), named], KEYS.client_name) == (
        unnamed,
        named,
    )


@pytest.mark.parametrize(
    ("workers", "level", "text"),
    [
        (Workers(()), Level.OK, "no Bull worker"),
        (Workers((client("bull:ZW1haWw="),)), Level.WARN, "10.0.0.7:4711"),
        (Workers((), "this Redis refuses CLIENT LIST"), Level.WARN, HIDDEN),
    ],
)
def test_connected_bull_workers_warn_with_a_remedy(workers: Workers, level: Level, text: str) -> None:
    """They share the jobs, which may be intended or an oversight."""
    result = evaluate_bull_workers(workers, KEYS)
    assert result.level is level
    assert text in result.message
    assert level is Level.OK or "@Processor" in result.remedy


@pytest.mark.parametrize(
    ("workers", "level", "text"),
    [
        (Workers((ClientInfo("bull:ZW1haWw=", "10.0.0.1:5", 1, 0),)), Level.OK, "1 Bull worker(s)"),
        (Workers(()), Level.WARN, "nothing to compare with"),
        (Workers((), "hidden"), Level.WARN, HIDDEN),
    ],
)
def test_shadow_mode_warns_without_a_bull_worker(workers: Workers, level: Level, text: str) -> None:
    """Shadow mode compares with a Bull worker, so its absence is the warning."""
    result = evaluate_shadow_target(workers)
    assert result.level is level
    assert text in result.message

"""What `check` makes of what a Redis says of itself."""

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
    ("version", "grade"),
    [((6, 0, 16), Level.FAIL), ((6, 2, 0), Level.OK), ((7, 4), Level.OK), ((9, 1, 2), Level.OK), ((0,), Level.OK)],
)
def test_the_oldest_version_is_6_2(version: tuple[int, ...], grade: Level) -> None:
    """BLMOVE came with it; a server that hides its version gets the benefit of the doubt."""
    assert evaluate_server(ServerInfo("Redis", version))[0].grade is grade


@pytest.mark.parametrize(
    ("memory", "grade", "text"),
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
def test_jobs_must_neither_be_evicted_nor_refused(memory: MemoryInfo, grade: Level, text: str) -> None:
    """The policy, what was evicted already, and what room is left."""
    result = evaluate_memory(memory)
    assert result.grade is grade
    assert text in result.message


@pytest.mark.parametrize(
    ("kept", "grade", "text"),
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
def test_a_crash_of_redis_should_cost_a_second_at_most(kept: PersistenceInfo, grade: Level, text: str) -> None:
    """Each way to keep jobs on the disk, and what it would lose."""
    result = evaluate_persistence(kept)
    assert result.grade is grade
    assert text in result.message


@pytest.mark.parametrize(("skew_s", "grade"), [(0.4, Level.OK), (-0.9, Level.OK), (1.5, Level.WARN), (-60, Level.WARN)])
def test_clocks_may_differ_by_a_second(skew_s: float, grade: Level) -> None:
    """Bull writes its clients' times."""
    assert evaluate_clock_skew("redis clock", skew_s).grade is grade


@pytest.mark.parametrize(("round_trip_ms", "grade"), [(0.3, Level.OK), (45.0, Level.WARN)])
def test_a_far_redis_is_worth_a_warning(round_trip_ms: float, grade: Level) -> None:
    """Each mail costs a few round trips."""
    assert evaluate_latency(round_trip_ms).grade is grade


def test_a_replica_fails() -> None:
    """It would refuse every claim."""
    [result] = evaluate_target(ServerInfo("Redis", (7,), role="slave"), KEYS)
    assert result.grade is Level.FAIL


def test_no_cluster_needs_no_word() -> None:
    """The usual case is not talked about."""
    assert evaluate_target(ServerInfo("Redis", (7,), role="master", cluster=False), KEYS) == []


def test_missing_rights_are_granted_by_the_line_told() -> None:
    """An administrator can paste the remedy."""
    result = evaluate_permissions(Permissions("mailer", ("lrem", "zadd"), keys=True, channels=True), "url-user", KEYS)
    assert result.remedy == "ACL SETUSER mailer +lrem +zadd '~bull:email:*' '&bull:email:*'"


def test_a_user_who_may_not_ask_who_he_is_is_named_as_in_the_url() -> None:
    """ACL WHOAMI is a right, too."""
    assert "ACL SETUSER url-user +eval" in evaluate_permissions(Permissions(None, ("eval",)), "url-user", KEYS).remedy


def test_a_paused_queue_is_worth_a_warning() -> None:
    """Nothing would be sent, and somebody should know why."""
    snapshot = Snapshot(1, 0, 0, 0, 0, 2, is_paused=True, oldest_waiting_ms=None, next_due_ms=None, journal=0)
    result = evaluate_queue(snapshot, KEYS)
    assert result.grade is Level.WARN
    assert "resume" in result.remedy


def client(name: str) -> ClientInfo:
    return ClientInfo(name, "10.0.0.7:4711", 1, 1)


def test_bulls_workers_are_strangers_and_daemons_are_not() -> None:
    """A worker of node bears the queue's name alone; a daemon's goes on with instance and boot id."""
    node, other = client("bull:ZW1haWw="), client("bull:ZW1haWw=:w1")
    own, beside = client(f"bull:ZW1haWw=:vm-1/{'a' * 32}"), client(f"flowstate:bull:ZW1haWw=:vm-1/{'a' * 32}")
    assert foreign_workers([node, own, beside, client("bull:other"), other], KEYS.client_name) == (node, other)


@pytest.mark.parametrize(
    ("workers", "grade", "text"),
    [
        (Workers(()), Level.OK, "no Bull worker"),
        (Workers((client("bull:ZW1haWw="),)), Level.WARN, "10.0.0.7:4711"),
        (Workers((), "this Redis refuses CLIENT LIST"), Level.WARN, HIDDEN),
    ],
)
def test_live_bull_workers_are_told_with_the_way_out(workers: Workers, grade: Level, text: str) -> None:
    """They take their share of the mails, which may be meant or forgotten."""
    result = evaluate_bull_workers(workers, KEYS)
    assert result.grade is grade
    assert text in result.message
    assert grade is Level.OK or "@Processor" in result.remedy


@pytest.mark.parametrize(
    ("workers", "grade", "text"),
    [
        (Workers((ClientInfo("bull:ZW1haWw=", "10.0.0.1:5", 1, 0),)), Level.OK, "1 Bull worker(s)"),
        (Workers(()), Level.WARN, "nothing to compare with"),
        (Workers((), "hidden"), Level.WARN, HIDDEN),
    ],
)
def test_a_shadow_wants_company(workers: Workers, grade: Level, text: str) -> None:
    """What is a warning for a daemon that sends is what a shadow is there for."""
    result = evaluate_shadow_target(workers)
    assert result.grade is grade
    assert text in result.message

"""What `check` makes of what a Redis says of itself."""

from __future__ import annotations

import pytest

from flowstate_daemon.cli.check_redis import (
    judge_clock,
    judge_company,
    judge_latency,
    judge_memory,
    judge_persistence,
    judge_place,
    judge_queue,
    judge_rights,
    judge_server,
    judge_strangers,
)
from flowstate_daemon.cli.verdict import Grade
from flowstate_daemon.queue.clients import Client, strangers
from flowstate_daemon.queue.inspector import Snapshot, Workers
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.rights import Rights
from flowstate_daemon.queue.server import Memory, Persistence, Server

KEYS = Keys()
MIB = 2**20
HIDDEN = "not visible"


@pytest.mark.parametrize(
    ("version", "grade"),
    [((6, 0, 16), Grade.FAIL), ((6, 2, 0), Grade.OK), ((7, 4), Grade.OK), ((9, 1, 2), Grade.OK), ((0,), Grade.OK)],
)
def test_the_oldest_version_is_6_2(version: tuple[int, ...], grade: Grade) -> None:
    """BLMOVE came with it; a server that hides its version gets the benefit of the doubt."""
    assert judge_server(Server("Redis", version))[0].grade is grade


@pytest.mark.parametrize(
    ("memory", "grade", "words"),
    [
        (Memory("noeviction", 10 * MIB, 0), Grade.OK, "no limit"),
        (Memory("noeviction", 10 * MIB, 100 * MIB), Grade.OK, "10 MiB used of 100 MiB"),
        (Memory("noeviction", 85 * MIB, 100 * MIB), Grade.WARN, "nearly full"),
        (Memory("noeviction", 99 * MIB, 100 * MIB), Grade.FAIL, "full"),
        (Memory("allkeys-lru", 99 * MIB, 100 * MIB), Grade.FAIL, "full"),
        (Memory("volatile-lru", 1, 0), Grade.WARN, "may be evicted"),
        (Memory("allkeys-lru", 1, 0, evicted=7), Grade.WARN, "7 keys were evicted"),
        (Memory("noeviction", 1, 0, evicted=7), Grade.OK, "noeviction"),
        (Memory(), Grade.WARN, HIDDEN),
    ],
)
def test_jobs_must_neither_be_evicted_nor_refused(memory: Memory, grade: Grade, words: str) -> None:
    """The policy, what was evicted already, and what room is left."""
    verdict = judge_memory(memory)
    assert verdict.grade is grade
    assert words in verdict.finding


@pytest.mark.parametrize(
    ("kept", "grade", "words"),
    [
        (Persistence(append_only=True, fsync="everysec"), Grade.OK, "everysec"),
        (Persistence(append_only=True), Grade.OK, HIDDEN),
        (Persistence(append_only=True, fsync="no"), Grade.WARN, "half a minute"),
        (Persistence(append_only=False, snapshots=True), Grade.WARN, "since the last snapshot"),
        (Persistence(append_only=False, snapshots=False), Grade.WARN, "every job"),
        (Persistence(append_only=False), Grade.WARN, "newest jobs"),
        (Persistence(), Grade.WARN, HIDDEN),
        (Persistence(append_only=True, fsync="everysec", write_error=True), Grade.FAIL, "disk"),
    ],
)
def test_a_crash_of_redis_should_cost_a_second_at_most(kept: Persistence, grade: Grade, words: str) -> None:
    """Each way to keep jobs on the disk, and what it would lose."""
    verdict = judge_persistence(kept)
    assert verdict.grade is grade
    assert words in verdict.finding


@pytest.mark.parametrize(("skew_s", "grade"), [(0.4, Grade.OK), (-0.9, Grade.OK), (1.5, Grade.WARN), (-60, Grade.WARN)])
def test_clocks_may_differ_by_a_second(skew_s: float, grade: Grade) -> None:
    """Bull writes its clients' times."""
    assert judge_clock("redis clock", skew_s).grade is grade


@pytest.mark.parametrize(("round_trip_ms", "grade"), [(0.3, Grade.OK), (45.0, Grade.WARN)])
def test_a_far_redis_is_worth_a_warning(round_trip_ms: float, grade: Grade) -> None:
    """Each mail costs a few round trips."""
    assert judge_latency(round_trip_ms).grade is grade


def test_a_replica_fails() -> None:
    """It would refuse every claim."""
    [verdict] = judge_place(Server("Redis", (7,), role="slave"), KEYS)
    assert verdict.grade is Grade.FAIL


def test_no_cluster_needs_no_word() -> None:
    """The usual case is not talked about."""
    assert judge_place(Server("Redis", (7,), role="master", cluster=False), KEYS) == []


def test_missing_rights_are_granted_by_the_line_told() -> None:
    """An administrator can paste the remedy."""
    verdict = judge_rights(Rights("mailer", ("lrem", "zadd"), keys=True, channels=True), "url-user", KEYS)
    assert verdict.remedy == "ACL SETUSER mailer +lrem +zadd '~bull:email:*' '&bull:email:*'"


def test_a_user_who_may_not_ask_who_he_is_is_named_as_in_the_url() -> None:
    """ACL WHOAMI is a right, too."""
    assert "ACL SETUSER url-user +eval" in judge_rights(Rights(None, ("eval",)), "url-user", KEYS).remedy


def test_a_paused_queue_is_worth_a_warning() -> None:
    """Nothing would be sent, and somebody should know why."""
    snapshot = Snapshot(1, 0, 0, 0, 0, 2, is_paused=True, oldest_waiting_ms=None, next_due_ms=None, journal=0)
    verdict = judge_queue(snapshot, KEYS)
    assert verdict.grade is Grade.WARN
    assert "resume" in verdict.remedy


def client(name: str) -> Client:
    return Client(name, "10.0.0.7:4711", 1, 1)


def test_bulls_workers_are_strangers_and_daemons_are_not() -> None:
    """A worker of node bears the queue's name alone; a daemon's goes on with instance and boot id."""
    node, other = client("bull:ZW1haWw="), client("bull:ZW1haWw=:w1")
    ours, beside = client(f"bull:ZW1haWw=:vm-1/{'a' * 32}"), client(f"flowstate:bull:ZW1haWw=:vm-1/{'a' * 32}")
    assert strangers([node, ours, beside, client("bull:other"), other], KEYS.client_name) == (node, other)


@pytest.mark.parametrize(
    ("workers", "grade", "words"),
    [
        (Workers(()), Grade.OK, "no Bull worker"),
        (Workers((client("bull:ZW1haWw="),)), Grade.WARN, "10.0.0.7:4711"),
        (Workers((), "this Redis refuses CLIENT LIST"), Grade.WARN, HIDDEN),
    ],
)
def test_live_bull_workers_are_told_with_the_way_out(workers: Workers, grade: Grade, words: str) -> None:
    """They take their share of the mails, which may be meant or forgotten."""
    verdict = judge_strangers(workers, KEYS)
    assert verdict.grade is grade
    assert words in verdict.finding
    assert grade is Grade.OK or "@Processor" in verdict.remedy


@pytest.mark.parametrize(
    ("workers", "grade", "words"),
    [
        (Workers((Client("bull:ZW1haWw=", "10.0.0.1:5", 1, 0),)), Grade.OK, "1 Bull worker(s)"),
        (Workers(()), Grade.WARN, "nothing to compare with"),
        (Workers((), "hidden"), Grade.WARN, HIDDEN),
    ],
)
def test_a_shadow_wants_company(workers: Workers, grade: Grade, words: str) -> None:
    """What is a warning for a daemon that sends is what a shadow is there for."""
    verdict = judge_company(workers)
    assert verdict.grade is grade
    assert words in verdict.finding

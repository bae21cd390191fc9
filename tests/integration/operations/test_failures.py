"""Failed jobs by reason: what differs between two failures of one cause does not make two groups."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.operations import failures as failures_module
from flowstate_daemon.operations.failures import Failures
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.queue.search import JobSearch
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.clock import FakeClock

REASONS = [
    "timeout after 15 s",
    "timeout after 30 s",
    "422: Invalid `to` field (request 0f8fad5b-d9cd-469f-a165-70867728950e)",
    "422: Invalid `to` field (request 7c9e6679-7425-40de-944b-e07fc1f90ae7)",
    "ada@example.org bounced",
    "bob@mail.dev bounced",
    'job "7" stalled more than 1 times',
    "",
]


@pytest.fixture
async def failed(redis: Redis, keys: Keys) -> QueueFixture:
    stage = QueueFixture(redis, keys)
    for number, reason in enumerate(REASONS):
        await stage.put(f"j{number}", "failed", at=BORN + number, failedReason=reason, finishedOn=BORN + number)
    return stage


async def test_groups(connection: Connection, keys: Keys, clock: FakeClock, failed: QueueFixture) -> None:
    found = await Failures(connection, keys, clock).groups()
    assert (found.examined, found.total) == (len(REASONS), len(REASONS))
    assert [group.count for group in found.groups] == [2, 2, 2, 1, 1]
    assert all(
        "example.org" not in group.reason.replace("a***@", "") or "***" in group.reason for group in found.groups
    )
    assert {group.kinds["welcome"] for group in found.groups} == {1, 2}


async def test_pattern_of_a_group_matches_the_group(
    connection: Connection, keys: Keys, clock: FakeClock, failed: QueueFixture
) -> None:
    """So a retry of the group changes these jobs and no others."""
    search = JobSearch(connection, keys, clock)
    for group in (await Failures(connection, keys, clock).groups()).groups:
        if group.pattern.strip("*"):
            assert (await search.count("failed", JobFilter(reason=group.pattern))).matching == group.count
    [bounced] = [
        group for group in (await Failures(connection, keys, clock).groups()).groups if "bounced" in group.reason
    ]
    result = await QueueAdmin(connection, keys, clock, token="t").retry_all(
        job_filter=JobFilter(reason=bounced.pattern)
    )
    assert result.done == 2


async def test_out_of_time_counts_the_newest(
    connection: Connection, keys: Keys, clock: FakeClock, failed: QueueFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures_module, "EXAMINE_BATCH", 2)
    found = await Failures(connection, keys, clock).groups(budget_s=-1.0)
    assert (found.examined, found.total) == (2, len(REASONS))
    assert {job for group in found.groups for job in group.job_ids} == {"j6", "j7"}

"""Filters of jobs: the same jobs are found, counted and changed, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowstate_daemon.queue import search as search_module
from flowstate_daemon.queue.admin import BulkResult, QueueAdmin
from flowstate_daemon.queue.audit import AuditLog
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.queue.job import State
from flowstate_daemon.queue.search import JobSearch, spread
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.clock import FakeClock

HOUR_MS = 3_600_000


@pytest.fixture
def job_search(connection: Connection, keys: Keys, clock: FakeClock) -> JobSearch:
    return JobSearch(connection, keys, clock)


@pytest.fixture
def admin(connection: Connection, keys: Keys, clock: FakeClock) -> QueueAdmin:
    return QueueAdmin(connection, keys, clock, token="t", audit=AuditLog(connection, keys, clock, actor="ada"))


def job(number: int, **fields: Any) -> dict[str, Any]:
    """One of six different jobs: two kinds, three recipients, three reasons, one an hour."""
    kind = ("welcome", "task-reminder")[number % 2]
    to = ("Ada@Example.org", "bob@mail.dev", "eva@münchen.example")[number % 3]
    reason = ("422 Invalid `to` field", "the email may have been sent", "no answer [50%]")[number % 3]
    at = BORN + number * HOUR_MS
    return {
        "name": kind,
        "data": json.dumps({"type": kind, "to": to, "context": {"note": "carol@example.org"}}),
        "timestamp": at - 60_000,
        "finishedOn": at,
        "failedReason": reason,
        **fields,
    }


async def put_all(stage: QueueFixture, state: State, count: int) -> None:
    for number in range(count):
        fields = job(number)
        if state != "failed":
            del fields["finishedOn"], fields["failedReason"]
        await stage.put(str(number), state, at=BORN + number * HOUR_MS, **fields)


FILTERS: list[tuple[JobFilter, set[int]]] = [
    (JobFilter(), {0, 1, 2, 3, 4, 5}),
    (JobFilter(kinds=("welcome",)), {0, 2, 4}),
    (JobFilter(kinds=("welcome", "task-reminder")), {0, 1, 2, 3, 4, 5}),
    (JobFilter(kinds=("otp",)), set()),
    (JobFilter(recipient="ada@EXAMPLE.org"), {0, 3}),
    (JobFilter(recipient="@mail."), {1, 4}),
    (JobFilter(recipient="münchen"), {2, 5}),
    (JobFilter(recipient="carol@example.org"), set()),
    (JobFilter(recipient='"'), set()),
    (JobFilter(reason="invalid `TO`"), {0, 3}),
    (JobFilter(reason="[50%]"), {2, 5}),
    (JobFilter(reason="."), set()),
    (JobFilter(reason="422*field"), {0, 3}),
    (JobFilter(reason="field*422"), set()),
    (JobFilter(reason="*"), {0, 1, 2, 3, 4, 5}),
    (JobFilter(after=BORN + 2 * HOUR_MS), {2, 3, 4, 5}),
    (JobFilter(before=BORN + 2 * HOUR_MS), {0, 1, 2}),
    (JobFilter(after=BORN + 2 * HOUR_MS, before=BORN + 3 * HOUR_MS), {2, 3}),
    (JobFilter(kinds=("welcome",), recipient="ada", reason="422", before=BORN), {0}),
]


@pytest.mark.parametrize(("wanted", "expected"), FILTERS, ids=lambda value: str(value)[:60])
async def test_filters_find_count_and_retry_the_same_jobs(
    stage: QueueFixture, job_search: JobSearch, admin: QueueAdmin, wanted: JobFilter, expected: set[int]
) -> None:
    """Search, count and retry agree; what does not match stays as it was."""
    await put_all(stage, "failed", 6)
    page = await job_search.page("failed", wanted, count=10)
    assert [int(found.id) for found in page.jobs] == sorted(expected, reverse=True)
    counted = await job_search.count("failed", wanted)
    assert (counted.matching, counted.estimate, counted.is_exact) == (len(expected), len(expected), True)
    result = await admin.retry_all(job_filter=wanted, maybe_sent=True)
    assert result == BulkResult(len(expected), 6 - len(expected))
    kept = (await stage.dump()).get("failed", {})
    assert set(kept) == {str(number) for number in range(6) if number not in expected}


@pytest.mark.parametrize("state", ["wait", "delayed", "completed", "failed"])
async def test_removing_by_filter(stage: QueueFixture, admin: QueueAdmin, job_search: JobSearch, state: State) -> None:
    """A filter of recipients removes their jobs in any state, with everything that belongs to them."""
    await put_all(stage, state, 6)
    assert (await admin.clean(state, 0, job_filter=JobFilter(recipient="ada@"))).done == 2
    left = await job_search.page(state, count=10)
    assert sorted(int(found.id) for found in left.jobs) == [1, 2, 4, 5]
    assert not await stage.redis.exists(stage.keys.job("0"), stage.keys.job("3"))


async def test_promoting_by_filter(stage: QueueFixture, admin: QueueAdmin) -> None:
    await put_all(stage, "delayed", 6)
    assert await admin.promote_all(job_filter=JobFilter(kinds=("welcome",))) == BulkResult(3, 3)
    assert set((await stage.dump())["wait"]) == {"0", "2", "4"}


async def test_a_limit_counts_matching_jobs(stage: QueueFixture, admin: QueueAdmin) -> None:
    """With a limit the oldest that match are changed, also behind many that do not."""
    await put_all(stage, "failed", 60)
    result = await admin.retry_all(limit=3, job_filter=JobFilter(recipient="eva@"))
    assert result.done == 3
    assert (await stage.dump())["wait"] == ["8", "5", "2"]


async def test_the_audit_names_the_filter(stage: QueueFixture, admin: QueueAdmin, connection: Connection) -> None:
    await put_all(stage, "failed", 6)
    await admin.retry_all(job_filter=JobFilter(kinds=("welcome",), reason="422"))
    [action] = await AuditLog(connection, stage.keys, FakeClock(), actor="x").newest(5)
    assert (action.actor, action.action, action.count) == ("ada", "queue retry", 1)
    assert action.target == "failed jobs (kind welcome, reason contains '422')"


async def test_damaged_jobs(stage: QueueFixture, job_search: JobSearch) -> None:
    """Ids without a hash, foreign keys, broken JSON and odd types match only the empty filter, and break nothing."""
    await stage.redis.zadd(stage.keys("failed"), {"ghost": 1, "list": 2, "broken": 3, "array": 4, "odd": 5, "none": 6})
    await stage.redis.rpush(stage.keys.job("list"), "x")
    await stage.redis.hset(stage.keys.job("broken"), mapping={"name": "welcome", "data": '{"to": "ada@x.org"'})
    await stage.redis.hset(stage.keys.job("array"), mapping={"name": "welcome", "data": '["ada@x.org"]'})
    await stage.redis.hset(stage.keys.job("odd"), mapping={"name": "welcome", "data": '{"to": ["ada@x.org"]}'})
    await stage.redis.hset(stage.keys.job("none"), mapping={"data": "null", "timestamp": "NaN"})
    assert (await job_search.count("failed")).matching == 6
    for wanted, count in [
        (JobFilter(recipient="ada"), 0),
        (JobFilter(kinds=("welcome",)), 3),
        (JobFilter(reason="a"), 0),
        (JobFilter(after=0), 0),
    ]:
        assert (await job_search.count("failed", wanted)).matching == count
        assert len((await job_search.page("failed", wanted, count=10)).jobs) == count


async def test_pages_continue_where_the_last_ended(
    stage: QueueFixture, job_search: JobSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every matching job is on one page, in order, for any size of page and of script call."""
    await put_all(stage, "failed", 50)
    wanted = JobFilter(recipient="ada@")
    for batch in (1, 7, 1000):
        monkeypatch.setattr(search_module, "EXAMINE_BATCH", batch)
        for size in (1, 4, 17, 100):
            found: list[int] = []
            position: int | None = 0
            while position is not None:
                page = await job_search.page("failed", wanted, position=position, count=size, newest_first=False)
                assert len(page.jobs) <= size
                found += [int(one.id) for one in page.jobs]
                position = page.next_position
            assert found == list(range(0, 50, 3))


async def test_a_count_out_of_time_says_so(
    stage: QueueFixture, job_search: JobSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It examines pages spread over the state, and scales what they contained."""
    await put_all(stage, "failed", 60)
    monkeypatch.setattr(search_module, "EXAMINE_BATCH", 6)
    found = await job_search.count("failed", JobFilter(recipient="ada@"), budget_s=-1.0)
    assert (found.matching, found.examined, found.total) == (2, 6, 60)
    assert not found.is_exact
    assert found.estimate == 20


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 99, 1000])
def test_spread_visits_every_page_once(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))

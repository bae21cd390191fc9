"""Records of requests: each number of an email once, whoever writes it, and kept for a day."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from flowstate_daemon.database.ledger import REQUESTS_KEPT, Ledger
from flowstate_daemon.database.pool import acquire
from flowstate_daemon.database.request_records import RequestRecord, RequestRecords
from tests.support.clock import FakeClock
from tests.support.ledger_entries import START_MS, outcome

JOBS = [("7", START_MS), ("8", START_MS)]
ADDRESS = "ada@example.org"


@pytest.fixture
def records(pool: asyncpg.Pool) -> RequestRecords:
    return RequestRecords(pool, "bull:email:")


async def record(
    records: RequestRecords, jobs: list[tuple[str, int]] = JOBS, *, number: int = 1, request: str = ""
) -> set[tuple[str, int]]:
    return await records.record(request or uuid4().hex, "flowstate-key", START_MS, jobs, [number] * len(jobs))


async def count(pool: asyncpg.Pool, table: str) -> int:
    async with acquire(pool) as connection:
        return int(await connection.fetchval(f"SELECT count(*) FROM flowstate_daemon.{table}"))


async def test_a_number_is_recorded_once(records: RequestRecords, pool: asyncpg.Pool) -> None:
    """The same request again changes nothing; another one gets back who was in a request already."""
    first = uuid4().hex
    assert await record(records, request=first) == set()
    assert await record(records, request=first) == set()
    assert await record(records, [*JOBS, ("9", START_MS)]) == set(JOBS), "and nothing of it is recorded"
    assert await record(records, number=2) == set()
    assert await record(records, number=1) == set(JOBS), "a gap: the number is lower than the latest"
    assert await count(pool, "request_members") == 4


async def test_other_job_with_the_same_id_is_not_known(records: RequestRecords) -> None:
    """The timestamp distinguishes jobs, and so does the queue's prefix."""
    await record(records)
    assert await record(records, [("7", START_MS + 1)]) == set()
    assert await records.find({("7", START_MS + 2): ADDRESS}) == {}


async def test_ids_that_become_the_same_text_do_not_shift_the_others(
    records: RequestRecords, pool: asyncpg.Pool, clock: FakeClock
) -> None:
    """Numbers and addresses stay with their jobs, whatever a producer chose as an id."""
    jobs = [("a\0", START_MS), ("a\ufffd", START_MS), ("8", START_MS)]
    assert await records.record(uuid4().hex, "flowstate-key", START_MS, jobs, [1, 1, 2]) == set()
    addresses = dict(zip(jobs, ("ben@example.org", "cho@example.org", ADDRESS), strict=True))
    await Ledger(pool, clock).write([outcome(8, to=ADDRESS, key=f"bull:email:8:{START_MS}:1")])
    found = await records.find(addresses)
    assert (found[jobs[2]].number, found[jobs[2]].provider_id) == (2, "re-8")
    assert await records.find_sent(addresses) == {jobs[2]: "re-8"}


@pytest.mark.parametrize("job_id", ["x" * 2000, "a\0b", "half \ud83d", "'; DROP TABLE x; --", "ключ"])
async def test_any_job_id_is_recorded(records: RequestRecords, job_id: str) -> None:
    """Producers choose ids; the record and the ledger name the email alike."""
    job = (job_id, START_MS)
    assert await record(records, [job]) == set()
    assert await record(records, [job]) == {job}
    assert set(await records.find({job: ADDRESS})) == {job}


async def test_latest_request_is_found_with_its_outcome(records: RequestRecords, pool: asyncpg.Pool) -> None:
    """The provider's id comes from the ledger, for the address of the email in any spelling."""
    latest = uuid4().hex
    await record(records)
    await record(records, number=3, request=latest)
    await Ledger(pool, FakeClock()).write([outcome(7, attempt=2)])
    found = await records.find({JOBS[0]: "Ada@Example.org", JOBS[1]: ADDRESS})
    assert found[JOBS[0]] == RequestRecord(latest, "flowstate-key", 3, START_MS, "re-7")
    assert found[JOBS[1]] == RequestRecord(latest, "flowstate-key", 3, START_MS, None)
    assert await records.find_sent(dict.fromkeys(JOBS, ADDRESS)) == {JOBS[0]: "re-7"}


async def test_forgotten_members_are_free_for_the_next_number(records: RequestRecords) -> None:
    """Only those of the given request, which is not recorded again; their number stays used up."""
    first = uuid4().hex
    await record(records, request=first)
    await records.forget(uuid4().hex, JOBS)
    assert await free(records) == []
    await records.forget(first, JOBS[:1])
    assert await free(records) == JOBS[:1]
    assert await record(records, request=first) == {JOBS[0]}
    assert await record(records) == set(JOBS)
    assert await record(records, JOBS[:1], number=2) == set()
    assert await free(records) == []


async def free(records: RequestRecords) -> list[tuple[str, int]]:
    return [job for job, found in (await records.find(dict.fromkeys(JOBS, ADDRESS))).items() if found.free]


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_withdrawn_request_is_forgotten_unless_it_was_resumed(records: RequestRecords, is_recorded: bool) -> None:
    """Whether or not the process that made it has recorded it."""
    first, second, third = uuid4().hex, uuid4().hex, uuid4().hex
    for number, request in ((1, first), (3, second)):
        if is_recorded:
            await record(records, number=number, request=request)
        if request == second:
            await records.mark_resumed(request, "flowstate-key", START_MS)
            assert await record(records, number=number, request=request) == set()
        assert await records.forget_withdrawn(request, JOBS) is (request == first)
        if request == first:
            assert await free(records) == (JOBS if is_recorded else [])
            assert await record(records, number=2, request=third) == set()
            await records.forget(third, JOBS)
    assert await free(records) == []
    assert {found.request_id for found in (await records.find(dict.fromkeys(JOBS, ADDRESS))).values()} == {second}


async def test_request_is_either_resumed_or_withdrawn(records: RequestRecords) -> None:
    """Of one process that resumes a request and one that puts its emails into another, one may send them."""

    async def resume(request: str) -> bool:
        await records.mark_resumed(request, "flowstate-key", START_MS)
        return await record(records, jobs, request=request) == set()

    async def replace_it(request: str) -> bool:
        return await records.forget_withdrawn(request, jobs) and await record(records, jobs, number=2) == set()

    for number in range(40):
        jobs = [("7", START_MS + number)]
        request = uuid4().hex
        await record(records, jobs, request=request)
        assert sum(await asyncio.gather(resume(request), replace_it(request))) <= 1


async def test_concurrent_requests_share_nothing(records: RequestRecords, pool: asyncpg.Pool) -> None:
    """Of many processes that put the same emails into a request, one may send each email."""
    jobs = [(str(number), START_MS) for number in range(50)]
    orders = [jobs, jobs[::-1], jobs[25:] + jobs[:25]] * 3
    refused = await asyncio.gather(*(record(records, order) for order in orders))
    allowed = [job for order, lost in zip(orders, refused, strict=True) for job in order if job not in lost]
    assert sorted(allowed) == sorted(jobs)
    assert await count(pool, "request_members") == 50


async def test_records_are_kept_for_a_day(records: RequestRecords, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """However long the ledger is kept."""
    await record(records)
    ledger = Ledger(pool, clock)
    clock.advance((REQUESTS_KEPT - timedelta(minutes=1)).total_seconds())
    assert await ledger.prune(365) == 0
    clock.advance(120)
    assert await ledger.prune(365) == 3
    assert (await count(pool, "requests"), await count(pool, "request_members")) == (0, 0)

"""A person is removed from the queue: every state, every spelling, stored requests and the journal."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from flowstate_daemon.base.address import FORGOTTEN, address_spellings
from flowstate_daemon.queue.audit import OperatorAction
from flowstate_daemon.queue.forgetting import PAGE_SIZE, QueueFindings, QueueForgetter
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.ledger_entries import journal_entry, outcome

ADA = '{"type":"welcome","to":"ada@example.org","context":{"name":"Ada"}}'
BOB = '{"type":"welcome","to":"bob@example.org","context":{"name":"ada"}}'
STATES = ("wait", "paused", "delayed", "active", "completed", "failed")


def forgetter(connection: Connection, keys: Keys, address: str = "ada@example.org") -> QueueForgetter:
    return QueueForgetter(connection, keys, address_spellings(address))


def ignore(_: int) -> None:
    """Progress that is not shown."""


async def test_jobs_in_every_state_are_deleted(stage: QueueFixture, connection: Connection, keys: Keys) -> None:
    """With their logs, priorities and debounce keys; the jobs of others keep everything."""
    for state in STATES:
        await stage.put(f"bob-{state}", state, data=BOB, priority=2)
    await stage.snapshot()
    for state in STATES:
        await stage.put(f"ada-{state}", state, data=ADA, priority=2, deid=f"d-{state}")
        await stage.redis.set(stage.keys(f"de:d-{state}"), f"ada-{state}")
    await stage.redis.sadd(stage.keys("stalled"), "ada-active")
    found = await forgetter(connection, keys).find(ignore)
    assert found.jobs == dict.fromkeys(STATES, 1)
    deleted = await forgetter(connection, keys).delete(ignore)
    assert (deleted.jobs, deleted.in_flight, deleted.in_requests) == (dict.fromkeys(STATES, 1), [], 0)
    assert await stage.diff() == {}
    assert await forgetter(connection, keys).delete(ignore) == QueueFindings()


@pytest.mark.parametrize(
    ("address", "to"),
    [
        ("ada@example.org", "ADA@Example.ORG"),
        ("Ada@Example.org ", "ada@example.org"),
        ("eva@münchen.example", "eva@xn--mnchen-3ya.example"),
        ("eva@xn--mnchen-3ya.example", "Eva@München.example"),
        ("ada@example.org", " ada@example.org\n"),
        ("ada@example.org", "Ada <ada@example.org>"),
        ("ada@example.org", ["bob@example.org", "ada@example.org"]),
        ("broken@", "Broken@"),
    ],
)
async def test_every_spelling_is_found(
    stage: QueueFixture, connection: Connection, keys: Keys, address: str, to: object
) -> None:
    """Also spellings that cannot be sent to: such jobs have failed, and are kept with the address."""
    await stage.put("1", "failed", data=json.dumps({"type": "welcome", "to": to, "context": {}}))
    assert (await forgetter(connection, keys, address).delete(ignore)).jobs == {"failed": 1}
    assert await stage.dump() == {}


@pytest.mark.parametrize(
    "data",
    [
        '{"to":"xada@example.org"}', '{"to":"ada@example.org.uk"}', '{"to":"ada+1@example.org"}', '{"to":null}',
        '{"to":"bob@example.org","context":{"note":"ada@example.org"}}', "[]", "7", "",
    ],
)  # fmt: skip
async def test_other_people_are_not_touched(stage: QueueFixture, connection: Connection, keys: Keys, data: str) -> None:
    """Similar addresses, and emails to somebody else."""
    await stage.put("1", "failed", data=data)
    await stage.snapshot()
    assert (await forgetter(connection, keys).delete(ignore)).jobs == {}
    assert await stage.diff() == {}


async def test_data_that_is_no_json_is_searched(stage: QueueFixture, connection: Connection, keys: Keys) -> None:
    """A job that no worker can read may contain the address anywhere."""
    await stage.put("1", "failed", data="{'to': 'ADA@example.org'")
    await stage.put("2", "failed", data=b"\xff\xfe".decode("latin-1"))
    assert (await forgetter(connection, keys).delete(ignore)).jobs == {"failed": 1}


async def test_job_of_a_worker_is_left_and_named(stage: QueueFixture, connection: Connection, keys: Keys) -> None:
    """A request may contain its email; the command says so, and finds it again later."""
    await stage.put("busy", "active", data=ADA, locked=True)
    await stage.put("free", "wait", data=ADA)
    deleted = await forgetter(connection, keys).delete(ignore)
    assert (deleted.jobs, deleted.in_flight) == ({"wait": 1}, ["busy"])
    await stage.redis.delete(stage.keys.lock("busy"))
    assert (await forgetter(connection, keys).delete(ignore)).jobs == {"active": 1}


async def test_stored_requests(stage: QueueFixture, connection: Connection, keys: Keys) -> None:
    """One with this person's emails alone is deleted; one that others need stays until it is settled, and counts."""
    await stage.put("ada-1", "delayed", data=ADA, storedRequest="own")
    await stage.put("ada-2", "delayed", data=ADA, storedRequest="shared")
    await stage.put("bob-1", "delayed", data=BOB, storedRequest="shared")
    await stage.redis.hset(keys.own("request:own"), mapping={"body": "ada", "left": 1})
    await stage.redis.hset(keys.own("request:shared"), mapping={"body": "ada, bob", "left": 2})
    deleted = await forgetter(connection, keys).delete(ignore)
    assert (deleted.jobs, deleted.in_requests) == ({"delayed": 2}, 1)
    assert not await stage.redis.exists(keys.own("request:own"))
    assert await stage.redis.hget(keys.own("request:shared"), "left") == "1"


async def test_journal_entries_are_deleted(stage: QueueFixture, connection: Connection, keys: Keys) -> None:
    """Those of other people keep their order, however long the journal is."""
    others = [journal_entry(outcome(number, to="bob@example.org")) for number in range(PAGE_SIZE + 5)]
    hers = [journal_entry(outcome(number, to=to)) for number, to in enumerate(("ada@example.org", "ADA@example.org"))]
    await stage.redis.rpush(keys.own("journal"), *others[:3], hers[0], *others[3:], hers[1], hers[1])
    assert (await forgetter(connection, keys).find(ignore)).journal == 3
    assert (await forgetter(connection, keys).delete(ignore)).journal == 3
    assert await stage.redis.lrange(keys.own("journal"), 0, -1) == [entry.decode() for entry in others]


async def test_audit_entries_stay_without_the_address(stage: QueueFixture, connection: Connection, keys: Keys) -> None:
    """Filters, pages and job ids that name the person, in any case; entries of others and their order are kept."""
    kept = [
        "failed jobs with recipient contains 'bob@example.org'", "failed jobs with reason contains 'xada@example.org'",
        "/dashboard/recipients?address=ada@example.org.uk", "job 7", "all failed jobs",
    ]  # fmt: skip
    hers = [
        "jobs with kind otp, recipient contains 'Ada@Example.org'", "/dashboard/recipients?address=ada@example.org",
        "job reset:ada@example.org", "job reset:ada@example.org",
    ]  # fmt: skip
    targets = [*kept[:2], *hers, *kept[2:]] * 60  # more than one page, and entries that are there many times
    entries = [msgspec.json.encode(OperatorAction(7, "eve", "queue retry", target, 1)).decode() for target in targets]
    await stage.redis.rpush(keys.own("audit"), "not an entry", *entries)
    assert (await forgetter(connection, keys).find(ignore)).audit == 60 * len(hers)
    assert (await forgetter(connection, keys).delete(ignore)).audit == 60 * len(hers)
    left = await stage.redis.lrange(keys.own("audit"), 0, -1)
    expected = [re.sub("(?i)(?<=[':=])ada@example.org(?!.uk)", FORGOTTEN, entry) for entry in entries]
    assert left == ["not an entry", *expected]
    assert await forgetter(connection, keys).delete(ignore) == QueueFindings()


async def test_long_queues_are_read_in_pages(stage: QueueFixture, connection: Connection, keys: Keys) -> None:
    """Each of several pages is found, once."""
    for number in range(2 * PAGE_SIZE + 30):
        await stage.put(f"j{number}", "wait", data=ADA if number % 7 == 0 else BOB)
    expected = len(range(0, 2 * PAGE_SIZE + 30, 7))
    assert (await forgetter(connection, keys).find(ignore)).jobs == {"wait": expected}
    assert (await forgetter(connection, keys).delete(ignore)).jobs == {"wait": expected}
    assert await stage.redis.llen(stage.keys("wait")) == 2 * PAGE_SIZE + 30 - expected


@pytest.mark.parametrize("dirt", [r"\ud83d", "\x0b", "\x00", "\x1f"])
@pytest.mark.parametrize("to", ["ada@example.org", "ADA@example.org", r"\u0061da@example.org"])
async def test_dirty_jobs_are_those_of_their_recipient(
    stage: QueueFixture, connection: Connection, keys: Keys, dirt: str, to: str
) -> None:
    """The worker sends such jobs, so they are found by their recipient, whoever else they mention."""
    context = f'{{"name":"ada@example.org {dirt}"}}'
    await stage.put("other", "failed", data=f'{{"type":"welcome","to":"bob@example.org","context":{context}}}')
    await stage.put("longer", "failed", data=f'{{"type":"welcome","to":"lada@example.org","context":{context}}}')
    await stage.snapshot()
    await stage.put("ada", "failed", data=f'{{"type":"welcome","to":"{to}","context":{context}}}')
    assert (await forgetter(connection, keys).delete(ignore)).jobs == {"failed": 1}
    assert await stage.diff() == {}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ('{"to":"ada@example.org", "context":', 1),
        ("to=ADA@example.org;", 1),
        ("ada@example.org.", 1),
        ("lada@example.org", 0),
        ("x.ada@example.org", 0),
        ("ada@example.organic", 0),
        ("ada@example.org.uk", 0),
    ],
)
async def test_data_that_is_not_json(
    stage: QueueFixture, connection: Connection, keys: Keys, data: str, found: int
) -> None:
    """The address is searched for in it, but not as a part of another person's."""
    await stage.put("broken", "failed", data=data)
    assert (await forgetter(connection, keys).find(ignore)).jobs.total() == found

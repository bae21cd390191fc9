"""Enqueueing over the API: all or nothing, and once for each idempotency key, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
from multidict import CIMultiDict
from redis.asyncio import Redis

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.operations.enqueue import KEY_TTL_MS, EnqueueService
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import JobSucceeded
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.clock import FakeClock
from tests.support.operator_api import OPERATE, ApiClient, build_operator, serve_api

MAIL = {"kind": "welcome", "to": "ada@example.org", "context": {"name": "Ada"}}


class DyingQueue(BullQueue):
    """The process dies before the script call of this number; calls before it were executed."""

    dies_at = 0
    calls = 0

    async def _run(self, name: str, keys: Any, *args: Any) -> Any:
        self.calls += 1
        if self.calls == self.dies_at:
            raise StoreUnavailableError("the process has died")
        return await super()._run(name, keys, *args)


@pytest.fixture
def bull(connection: Connection, keys: Keys, clock: FakeClock) -> DyingQueue:
    return DyingQueue(connection, keys, clock, token="t")


@pytest.fixture
async def api(connection: Connection, keys: Keys, clock: FakeClock, bull: DyingQueue) -> AsyncIterator[ApiClient]:
    operator = build_operator(connection, keys, clock)
    operator.enqueue = EnqueueService(MailProducer(bull, attempts=4, backoff_ms=2000), connection, keys, clock)
    async with serve_api(operator) as api:
        yield api


def many(count: int) -> list[dict[str, Any]]:
    return [{**MAIL, "to": f"p{number}@example.org"} for number in range(count)]


async def test_emails_are_jobs_of_the_queue(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """In the order of the request; without a key each request adds new ones."""
    status, first = await api.post("/emails", {"emails": many(3)})
    assert (status, len(first["job_ids"]), first["repeated"]) == (201, 3, False)
    _, second = await api.post("/emails", {"emails": many(3)})
    assert not set(first["job_ids"]) & set(second["job_ids"])
    assert (await api.get("/queue"))[1]["wait"] == 6
    assert [(await api.get(f"/jobs/{job_id}"))[1]["data"]["to"] for job_id in first["job_ids"]] == [
        "p0@example.org",
        "p1@example.org",
        "p2@example.org",
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {**MAIL, "kind": "pigeon"},
        {**MAIL, "to": "ada"},
        {**MAIL, "kind": "otp"},  # without its code
        {**MAIL, "delay_ms": -1},
        {**MAIL, "priority": 1},
    ],
)
async def test_one_invalid_email_refuses_all_and_keeps_the_key_free(api: ApiClient, broken: Any) -> None:
    """Nothing is added, and the same key accepts the corrected emails."""
    status, document = await api.post("/emails", {"emails": [MAIL, broken], "idempotency_key": "k"})
    assert (status in (400, 422), document["detail"] != "") == (True, True)
    assert (await api.get("/queue"))[1]["wait"] == 0
    assert (await api.post("/emails", {"emails": [MAIL], "idempotency_key": "k"}))[0] == 201


@pytest.mark.parametrize("key", ["order-17", "é" * 256, " ", "../..", "a:b"])
async def test_repetition_adds_nothing(api: ApiClient, key: str) -> None:
    """The same ids, marked as repeated."""
    body = {"emails": many(3), "idempotency_key": key}
    _, first = await api.post("/emails", body)
    status, again = await api.post("/emails", body)
    assert (status, again["job_ids"], again["repeated"]) == (201, first["job_ids"], True)
    assert (await api.get("/queue"))[1]["wait"] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"to": "bob@example.org"},
        {"kind": "password-changed"},
        {"context": {"name": "Eve"}},
        {"delay_ms": 1},
        {"locale": "fr"},
    ],
)
async def test_other_emails_under_the_same_key_are_a_conflict(api: ApiClient, change: dict[str, Any]) -> None:
    """409, whatever differs; nothing is added."""
    await api.post("/emails", {"emails": [MAIL], "idempotency_key": "k"})
    status, document = await api.post("/emails", {"emails": [MAIL | change], "idempotency_key": "k"})
    assert (status in (400, 409), (await api.get("/queue"))[1]["wait"]) == (True, 1)
    assert status == 400 or "idempotency key" in document["detail"]
    more = {"emails": [MAIL, MAIL], "idempotency_key": "k"}
    assert (await api.post("/emails", more))[0] == 409


async def test_concurrent_calls_add_once(api: ApiClient) -> None:
    """Ten at once: each gets the same ids."""
    body = {"emails": many(150), "idempotency_key": "k"}
    answers = await asyncio.gather(*(api.post("/emails", body) for _ in range(10)))
    assert {status for status, _ in answers} == {201}
    assert len({tuple(document["job_ids"]) for _, document in answers}) == 1
    assert (await api.get("/queue"))[1]["wait"] == 150


async def test_call_that_died_in_the_middle_is_completed_by_its_repetition(
    api: ApiClient, bull: DyingQueue, clock: FakeClock
) -> None:
    """Those that were added have been sent and deleted before the repetition, and are not sent again."""
    body = {"emails": many(250), "idempotency_key": "k"}
    bull.dies_at = 3  # 100 emails for each call: the third is not executed
    assert (await api.post("/emails", body))[0] == 503
    sent = []
    for _ in range(2):
        claimed = await bull.claim(100)
        await bull.complete([JobSucceeded(job) for job in claimed])
        sent += claimed
    clock.advance(600)
    status, again = await api.post("/emails", body)
    assert (status, len(again["job_ids"]), again["repeated"]) == (201, 250, False)
    rest = await bull.claim(100)
    assert ({job.id for job in sent} | {job.id for job in rest}, len(rest)) == (set(again["job_ids"]), 50)
    assert (await api.post("/emails", body))[1]["repeated"] is True


async def test_key_is_new_after_a_day(api: ApiClient, redis: Redis, keys: Keys, clock: FakeClock) -> None:
    """Also while the jobs of its first use are still in the queue."""
    body = {"emails": [MAIL], "idempotency_key": "k"}
    _, first = await api.post("/emails", body)
    names = [name async for name in redis.scan_iter(f"{keys.own('enqueue:')}*")]
    assert [0 < await redis.pttl(name) <= KEY_TTL_MS for name in names] == [True]
    await redis.delete(*names)  # what its time to live does
    clock.advance(KEY_TTL_MS / 1000)
    _, second = await api.post("/emails", body)
    assert (second["repeated"], second["job_ids"] != first["job_ids"]) == (False, True)
    assert (await api.get("/queue"))[1]["wait"] == 2


@pytest.mark.parametrize(
    "context",
    [
        '{"n": 1' + "0" * 30 + "}",
        '{"n": 1e999}',
        '{"n": NaN}',
        '{"n": "\\u0000"}',
        '{"n": "\\ud800"}',
        '{"n":' * 90 + "1" + "}" * 90,
    ],
)
async def test_odd_contexts_are_accepted_or_refused(api: ApiClient, context: str) -> None:
    """JSON that other programs can write; never an internal error, and what is accepted can be read again."""
    text = (
        f'{{"emails": [{{"kind": "welcome", "to": "ada@example.org", "context": {context}}}], "idempotency_key": "k"}}'
    )
    status, document = await api.call("POST", "/emails", data=text.encode())
    assert status in (201, 400, 422), document
    if status == 201:
        assert (await api.get(f"/jobs/{document['job_ids'][0]}"))[1]["state"] == "wait"


@pytest.mark.parametrize("count", [1, 2, 1_000])
async def test_one_or_many_in_one_call(api: ApiClient, count: int) -> None:
    """Up to a thousand; the ids are in their order, and none is added twice."""
    status, document = await api.post("/emails", {"emails": many(count), "idempotency_key": "k"})
    assert (status, len(set(document["job_ids"])), (await api.get("/queue"))[1]["wait"]) == (201, count, count)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"emails": []}, 422, "emails"),
        ({"emails": many(1_001)}, 422, "emails"),
        ({"emails": [MAIL], "idempotency_key": ""}, 422, "idempotency_key"),
        ({"emails": [MAIL], "idempotency_key": "k" * 257}, 422, "idempotency_key"),
        ({"emails": [MAIL], "key": "k"}, 422, "key"),
        ({"emails": [{**MAIL, "to": "a" * 321}]}, 422, "to"),
        ({"emails": [{**MAIL, "delay_ms": 31_536_000_001}]}, 422, "delay_ms"),
        ({"emails": [{**MAIL, "context": {"name": "x" * 1_048_576}}]}, 413, ""),
        (MAIL, 422, "emails"),
        ([MAIL], 422, ""),
    ],
)
async def test_limits_are_documented_errors(api: ApiClient, body: Any, status: int, named: str) -> None:
    """Each with a reason that names the member, in the OpenAPI document, and nothing is added."""
    found, document = await api.call("POST", "/emails", data=BytesIO(json.dumps(body).encode()))
    assert (found, named in document["detail"]) == (status, True)
    _, openapi = await api.get("/openapi.json")
    assert str(status) in openapi["paths"]["/emails"]["post"]["responses"]
    assert (await api.get("/queue"))[1]["wait"] == 0


async def test_two_daemons_add_once(api: ApiClient, connection: Connection, keys: Keys, clock: FakeClock) -> None:
    """The key is shared: the same request to two daemons at the same time adds each email once."""
    async with serve_api(build_operator(connection, keys, clock)) as other:
        body = {"emails": many(300), "idempotency_key": "k"}
        answers = await asyncio.gather(*(one.post("/emails", body) for one in (api, other) * 3))
    assert {status for status, _ in answers} == {201}
    assert len({tuple(document["job_ids"]) for _, document in answers}) == 1
    assert (await api.get("/queue"))[1]["wait"] == 300


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
async def test_crash_at_any_call_and_a_retry_by_another_daemon(
    api: ApiClient, bull: DyingQueue, connection: Connection, keys: Keys, clock: FakeClock, dies_at: int
) -> None:
    """Whatever was added before the crash, the repetition elsewhere completes it."""
    body = {"emails": many(350), "idempotency_key": "k"}
    bull.dies_at = dies_at
    assert (await api.post("/emails", body))[0] == 503
    assert (await api.get("/queue"))[1]["wait"] == 100 * (dies_at - 1)
    async with serve_api(build_operator(connection, keys, clock)) as other:
        status, document = await other.post("/emails", body)
        assert (status, len(document["job_ids"])) == (201, 350)
        assert (await other.get("/queue"))[1]["wait"] == 350
        assert (await other.post("/emails", {**body, "emails": many(349)}))[0] == 409


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {OPERATE}", "Idempotency-Key": key}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", ["{}", '"{}"'])
async def test_key_in_the_header_is_that_of_the_request(api: ApiClient, count: int, form: str) -> None:
    """Bare or quoted, with one email or several, it means the same as in the body, and both may be given."""
    body = {"emails": many(count)}
    _, first = await api.post("/emails", body, headers=with_key(form.format("order-17")))
    for repetition, headers in (
        (body, with_key("order-17")),
        ({**body, "idempotency_key": "order-17"}, with_key(form.format("order-17"))),
        ({**body, "idempotency_key": "order-17"}, None),
    ):
        assert await api.post("/emails", repetition, headers=headers) == (201, first | {"repeated": True})
    assert (await api.get("/queue"))[1]["wait"] == count
    other = await api.post("/emails", {"emails": many(count + 1)}, headers=with_key("order-17"))
    assert (other[0], "idempotency key" in other[1]["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("key", "own", "status", "named"),
    [
        ("a", "b", 400, "send one of the two"),
        ("", None, 422, "Idempotency-Key"),
        ('""', None, 422, "Idempotency-Key"),
        ("k" * 257, None, 422, "Idempotency-Key"),
        ("clé", None, 422, "Idempotency-Key"),
    ],
)
async def test_key_in_the_header_that_cannot_be_used_is_refused(
    api: ApiClient, key: str, own: str | None, status: int, named: str
) -> None:
    """Nothing is added without the protection that the client asked for."""
    body = {"emails": [MAIL]} if own is None else {"emails": [MAIL], "idempotency_key": own}
    found, document = await api.post("/emails", body, headers=with_key(key))
    assert (found, named in document["detail"]) == (status, True), document
    assert (await api.get("/queue"))[1]["wait"] == 0


async def test_repeated_header_is_refused(api: ApiClient) -> None:
    """Two keys in one request are a mistake, and the document describes the one that is meant."""
    headers = CIMultiDict([*with_key("a").items(), ("Idempotency-Key", "b")])
    status, document = await api.post("/emails", {"emails": [MAIL]}, headers=headers)
    assert (status, "Idempotency-Key" in document["detail"]) == (422, True)
    _, openapi = await api.get("/openapi.json")
    (described,) = openapi["paths"]["/emails"]["post"]["parameters"]
    assert (described["name"], described["in"], described["required"]) == ("Idempotency-Key", "header", False)


async def test_every_mistake_of_every_email_is_in_one_answer(api: ApiClient) -> None:
    """Whether a member is unknown, has a wrong form, or does not fit the kind; each with its place, without values."""
    emails = [
        {"kind": "pigeon", "to": "ada", "x": 1},
        {"kind": "project-invitation", "to": "not one", "context": {}},
        {"kind": "otp", "to": "eve@example.org", "context": {"otpCode": "hunter2 hunter2"}, "delay_ms": -1},
        MAIL,
    ]
    body = {"emails": emails, "idempotency_key": "b", "priority": 1}
    status, document = await api.post("/emails?force=yes", body, headers=with_key("a"))
    places = {mistake.partition(": ")[0] for mistake in document["detail"].split("; ") if ": " in mistake}
    assert status == 422
    assert places >= {
        *("emails.0.kind", "emails.0.to", "emails.0.x", "emails.1.to", "emails.1.context", "emails.2.context"),
        *("emails.2.delay_ms", "idempotency_key", "priority", "force"),
    }
    assert not any(place.startswith("emails.3") for place in places)
    for field in ("projectName", "inviterName"):
        assert field in document["detail"], document
    assert "hunter2" not in document["detail"]
    assert (await api.get("/queue"))[1]["wait"] == 0

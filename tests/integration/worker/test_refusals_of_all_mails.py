"""A refusal that concerns all emails alike closes the send gate: nothing fails, no attempt is used, ready turns red."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending import refusals, send_gate
from tests.integration.worker.test_crash_points import settings
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error
from tests.support.waiting import hash_of

JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}
PAGE = "<html>Bad Request</html>"

OF_ALL = [
    error(404, "not_found", "The requested endpoint does not exist."),
    Answer(404, {"message": "Not Found", "documentation_url": "https://x.test"}, JSON),
    Answer(404, {"statusCode": 404, "message": "Cannot POST /emails", "error": "Not Found"}, JSON),
    Answer(404, PAGE, HTML),
    error(405, "method_not_allowed"),
    Answer(405, {"error": "method not allowed"}, JSON),
    error(402, "payment_required"),
    Answer(402, "", {}),
    error(410, "gone"),
    error(451, "security_error", "We may have found a security issue with the request."),
    Answer(451, PAGE, HTML),
    error(422, "validation_error", "Invalid `from` field. It needs the `email@example.com` format."),
    error(422, "missing_required_field", "Missing `from` field."),
    error(422, "invalid_from_address"),
    Answer(400, PAGE, HTML),
    Answer(400, {"message": "Bad Request"}, JSON),
    Answer(400, "", {}),
    Answer(421, "", {}),
    error(418, "an_unknown_type", "Something unknown."),
    error(422, "validation_error", "An unknown rule."),
    error(400, "invalid_idempotency_key"),
    Answer(301, "", {"location": "https://elsewhere.test"}),
    Answer(407, PAGE, HTML),
]


async def enqueue(connection: Connection, keys: Keys, *addresses: str, kind: str = "welcome") -> list[str]:
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=1, backoff_ms=20)
    return [(await producer.enqueue(NewMail(kind, address, preview_contexts()[kind]))).id for address in addresses]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes and repeated tries within milliseconds."""
    monkeypatch.setattr(send_gate, "MIN_PROBE_INTERVAL_S", 0.05)
    monkeypatch.setattr(send_gate, "MAX_PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr(refusals, "MIN_DELAY_MS", 20)
    monkeypatch.setattr(refusals, "MAX_DELAY_MS", 80)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("answer", OF_ALL, ids=lambda answer: f"{answer.status}-{answer.content[:40]!r}")
@pytest.mark.parametrize("count", [1, 12])
async def test_refusal_of_all_mails_burns_nothing(
    valkey_url: str, keys: Keys, redis: Redis, connection: Connection, fake: FakeResend, answer: Answer, count: int
) -> None:
    """Jobs with a single attempt stay, codes included; ready names the reason; when the cause is gone, all are sent."""
    fake.script(answer, times=None)
    jobs = await enqueue(connection, keys, *(f"person{number}@mail.dev" for number in range(count)))
    jobs += await enqueue(connection, keys, "code@mail.dev", kind="otp")
    daemon = CrashingDaemon(settings(valkey_url, keys, fake))
    built = daemon.daemon.components
    closed: list[str] = []

    async def all_sent() -> bool:
        if not closed and "account" in built.health.problems():
            assert await redis.zcard(keys("failed")) == 0
            for job_id in jobs:
                assert "attemptsMade" not in await hash_of(redis, keys, job_id)
            closed.append(built.health.problems()["account"])
            fake.unscript()
        return len(fake.accepted) == count + 1 and not built.health.problems() and not len(built.worker.in_flight)

    await daemon.run_until(all_sent)
    assert closed
    assert str(answer.status) in closed[0]
    assert fake.duplicates() == []
    assert await redis.zcard(keys("failed")) == 0


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    "answer",
    [error(451, "security_error"), Answer(403, PAGE, HTML), error(418, "unknown_type"), Answer(400, PAGE, HTML)],
    ids=lambda answer: str(answer.status),
)
@pytest.mark.parametrize("count", [0, 1, 40])
async def test_one_mail_that_is_always_refused_stops_no_other(
    valkey_url: str, keys: Keys, redis: Redis, connection: Connection, fake: FakeResend, answer: Answer, count: int
) -> None:
    """A firewall dislikes one text: that email fails once others were accepted, and the others are sent."""

    def is_bad(incoming: ReceivedRequest) -> bool:
        return b"bad@mail.dev" in incoming.body

    fake.script(answer, when=is_bad, times=None)
    [bad] = await enqueue(connection, keys, "bad@mail.dev")
    await enqueue(connection, keys, *(f"person{number}@mail.dev" for number in range(count)))
    daemon = CrashingDaemon(settings(valkey_url, keys, fake))
    late: list[str] = []

    async def settled() -> bool:
        if not late and len(fake.accepted) == count and sum(fake.requests.values()) > 3:
            late.extend(await enqueue(connection, keys, "late@mail.dev", kind="otp"))
        done = await redis.zcard(keys("failed")) == 1 and len(fake.accepted) == count + 1
        return done and not len(daemon.daemon.components.worker.in_flight)

    await daemon.run_until(settled)
    assert fake.duplicates() == []
    assert await redis.zrange(keys("failed"), 0, -1) == [bad]
    assert "other emails were accepted" in (await hash_of(redis, keys, bad))["failedReason"]


@pytest.mark.usefixtures("fast")
async def test_request_that_may_have_been_sent_is_never_split_by_an_unclear_refusal(
    valkey_url: str, keys: Keys, connection: Connection, fake: FakeResend
) -> None:
    """The first response was lost; an edge refuses the repetition; later the same bytes find what was accepted."""
    fake.script(Answer(502, "", accept=True), Answer(400, PAGE, HTML), Answer(400, PAGE, HTML))
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=2, backoff_ms=20)
    for number in range(3):
        await producer.enqueue(NewMail("welcome", f"person{number}@mail.dev", preview_contexts()["welcome"]))
    daemon = CrashingDaemon(settings(valkey_url, keys, fake))

    async def settled() -> bool:
        return fake.repeated_keys > 0 and not len(daemon.daemon.components.worker.in_flight)

    await daemon.run_until(settled)
    assert (len(fake.accepted), fake.duplicates()) == (3, [])

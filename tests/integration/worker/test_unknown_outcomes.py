"""Whether an email was sent may be unknown when its job ends: then its reason says so, and only then."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Backoff, NewJob
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.batch import EXPIRED_REASON, OUTCOME_UNKNOWN
from flowstate_daemon.sending.recent_requests import RecentRequests
from flowstate_daemon.sending.request_store import RequestStore
from flowstate_daemon.worker import handler
from tests.integration.worker.test_crash_points import settings
from tests.integration.worker.test_refusals_of_all_mails import enqueue
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.dispatcher_harness import DispatcherHarness, wait_for_results
from tests.support.fake_resend import Answer, FakeResend, error

NOTE = " (the email may have been sent)"
TIMEOUT_MS = 300
TIMED_OUT = f"Promise timed out after {TIMEOUT_MS} milliseconds"
IN_PROGRESS = error(409, "concurrent_idempotent_requests")
RATE_LIMITED = error(429, "rate_limit_exceeded", retry_after="60")


class DaemonThatCrashesAt(CrashingDaemon):
    """It crashes at the first step of this name."""

    def __init__(self, environment: dict[str, str], at: str) -> None:
        super().__init__(environment)
        self._at = at

    async def _step(self, name: str) -> None:
        await super()._step(name)
        if name == self._at:
            self._crashed.set()


async def reason_of_failure(connection: Connection, keys: Keys, redis: Redis, fake: FakeResend, job: NewJob) -> str:
    """The reason with which a job fails."""
    [added] = await BullQueue(connection, keys, Clock(), token="test").add_many([job])

    async def failed() -> bool:
        return await redis.zscore(keys("failed"), added.id) is not None

    url = connection._url
    await CrashingDaemon(settings(url, keys, fake)).run_until(failed)
    return str(await redis.hget(keys.job(added.id), "failedReason"))


def welcome(**options: object) -> NewJob:
    content = {"type": "welcome", "to": "ada@mail.dev", "context": {"name": "Ada"}}
    return NewJob("welcome", content, priority=5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answers", "note"),
    [
        ([IN_PROGRESS], NOTE),
        ([RATE_LIMITED], ""),
        ([IN_PROGRESS, RATE_LIMITED], NOTE),
    ],
    ids=["in progress", "rate limited", "rate limited after in progress"],
)
async def test_job_that_times_out_between_two_tries(
    connection: Connection,
    keys: Keys,
    redis: Redis,
    fake: FakeResend,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[Answer],
    note: str,
) -> None:
    """The job's own timeout ends while its request waits for the next try: no request is at the provider then."""
    monkeypatch.setattr("flowstate_daemon.delivery.responses.IN_PROGRESS_WAIT_MS", 60_000 if len(answers) == 1 else 10)
    fake.script(*answers)
    reason = await reason_of_failure(connection, keys, redis, fake, welcome(timeout_ms=TIMEOUT_MS))
    assert reason == TIMED_OUT + note
    assert fake.requests.total() == len(answers)


async def test_job_with_an_unknown_backoff(connection: Connection, keys: Keys, redis: Redis, fake: FakeResend) -> None:
    """It is not retried, and its only request may have been accepted."""
    fake.script(Answer(503, accept=True))
    job = welcome(attempts=3, backoff=Backoff("fibonacci", 5))
    reason = await reason_of_failure(connection, keys, redis, fake, job)
    assert "fibonacci" in reason
    assert reason.endswith(NOTE)
    assert len(fake.accepted) == 1


@pytest.mark.parametrize(
    ("count", "crash_at", "expected"),
    [
        (1, "after POST /emails", ("expired", EXPIRED_REASON + NOTE)),
        (1, "before POST /emails", ("expired", EXPIRED_REASON + NOTE)),
        (2, "after POST /emails/batch", ("expired", EXPIRED_REASON + NOTE)),
        (2, "after request_save_response", ("sent", None)),
    ],
)
async def test_code_that_expires_after_a_crash(
    connection: Connection,
    keys: Keys,
    redis: Redis,
    fake: FakeResend,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    crash_at: str,
    expected: tuple[str, str | None],
) -> None:
    """It is not sent again. If the response was stored, it was sent; else nothing says that it was not."""
    jobs = await enqueue(connection, keys, *(f"person{number}@mail.dev" for number in range(count)), kind="otp")
    environment = settings(connection._url, keys, fake)

    async def settled() -> bool:
        return await redis.exists(*map(keys.job, jobs)) == 0  # codes are not kept

    # The server then knows this script: the daemon's first call succeeds.
    assert not await RequestStore(connection, keys, Clock(), token="test").save_response("none", b"")
    first = DaemonThatCrashesAt(environment, crash_at)
    await first.run_until(settled)
    assert first.crashed
    requests = fake.requests.total()
    monkeypatch.setattr(handler, "expires_at_ms", lambda *_: 1)
    await CrashingDaemon(environment).run_until(settled)
    entries = [json.loads(entry) for entry in await Journal(connection, keys).peek(100)]
    assert {entry["job_id"]: (entry["outcome"], entry["reason"]) for entry in entries} == dict.fromkeys(jobs, expected)
    assert fake.requests.total() == requests
    assert [key async for key in redis.scan_iter(f"{keys.own('request')}:*")] == []


async def test_expired_code_whose_request_is_lost(
    connection: Connection, keys: Keys, redis: Redis, fake: FakeResend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can find out by a retry, so it is not parked."""
    [job] = await enqueue(connection, keys, "ada@mail.dev", kind="otp")
    await redis.hset(keys.job(job), "storedRequest", "lost")
    monkeypatch.setattr(handler, "expires_at_ms", lambda *_: 1)

    async def settled() -> bool:
        return await redis.exists(keys.job(job)) == 0  # codes are not kept

    await CrashingDaemon(settings(connection._url, keys, fake)).run_until(settled)
    [entry] = [json.loads(entry) for entry in await Journal(connection, keys).peek(100)]
    assert (entry["outcome"], entry["reason"]) == ("expired", EXPIRED_REASON + NOTE)


@pytest.mark.parametrize(
    "changed", [None, b"", b"{", b"\xff", b"[7]", b'[{"provider_id":"x","provider":"y","more":"z"}]']
)
@pytest.mark.parametrize("field", ["path", "body", "key", "members", "saved_at", "numbers", "response"])
async def test_stored_request_that_something_else_changed(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis, field: str, changed: bytes | None
) -> None:
    """Every job gets a result. What cannot be read may have been written by a later version."""
    fake.script(Answer(503, accept=True))
    jobs = await harness.jobs(2)
    await wait_for_results([harness.post(job) for job in jobs])
    harness.request_store.recent = RecentRequests()  # as in another process
    stored_request_id = str(await redis.hget(harness.keys.job(jobs[0].id), "storedRequest"))
    stored_request = harness.keys.own(f"request:{stored_request_id}")
    if changed is None:
        await redis.hdel(stored_request, field)
    else:
        await redis.hset(stored_request, field, changed)
    results = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    if field == "response":  # the provider is asked again, and recognizes the request
        assert results == [Accepted(accepted.id, "resend") for accepted in fake.accepted]
    if field in {"body", "members", "saved_at"}:
        assert list(map(str, results)) == [OUTCOME_UNKNOWN] * 2
    assert harness.dispatcher.queued == 0

"""`enqueue --wait`: the exit code says whether the email was sent, whatever its end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli.main import main
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import JobFailed, JobSucceeded
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("queue_environment")

COMMAND = ["enqueue", "welcome", "--to", "ada@example.org", "--context", '{"name": "Ada"}']
SET_ASIDE = "parked: the email may have been sent"


@pytest.fixture
def bull(connection: Connection, keys: Keys, clock: FakeClock) -> BullQueue:
    return BullQueue(connection, keys, clock, token="worker/test")


async def end_next_job(bull: BullQueue, value: bytes | None, reason: str) -> None:
    """What a worker does with the job that the command adds: complete it with this value, or fail it."""
    claimed: list[Any] = []

    async def claim() -> bool:
        claimed.extend(await bull.claim(1))
        return bool(claimed)

    await eventually(claim, "a job to claim")
    if value is None:
        await bull.fail([JobFailed(claimed[0], reason, b"[]")])
    else:
        await bull.complete([JobSucceeded(claimed[0], value)])


@pytest.mark.parametrize(
    ("value", "reason", "code", "shown"),
    [
        (b'{"id":"re-1"}', "", 0, "re-1"),
        (b"null", "", 0, "completed"),  # Bull's worker of the backend returns nothing
        (b'"done"', "", 0, "done"),
        (b"not JSON", "", 0, "completed"),
        (b'{"skipped":"the recipient has unsubscribed"}', "", 1, "the recipient has unsubscribed"),
        (b'{"expired":"the code was valid for 10 min"}', "", 1, "the code was valid for 10 min"),
        (None, "Resend: Invalid `to` field", 1, "Invalid `to` field"),
        (None, SET_ASIDE, 1, SET_ASIDE),
    ],
)
async def test_exit_code_says_whether_the_email_was_sent(
    bull: BullQueue, capsys: pytest.CaptureFixture[str], value: bytes | None, reason: str, code: int, shown: str
) -> None:
    """Skipped, expired, failed and set aside are not sent: 1, with the reason in text and document."""
    for options in ([], ["--json"]):
        command = asyncio.create_task(asyncio.to_thread(main, [*COMMAND, "--wait", "60", *options]))
        await end_next_job(bull, value, reason)
        assert await command == code
        output = capsys.readouterr().out
        assert shown in output
        if options:
            document = json.loads(output)
            assert document["sent"] is (code == 0)
            assert bool(document["reason"]) is (code == 1)


async def test_an_email_that_does_not_end_in_time_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    """No worker is connected: 1, and the text says how to look later."""
    assert await asyncio.to_thread(main, [*COMMAND, "--wait", "0.2"]) == 1
    assert "queue show" in capsys.readouterr().out


async def test_without_wait_the_outcome_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """The document claims nothing about sending, and a job that was added is a success."""
    assert await asyncio.to_thread(main, [*COMMAND, "--json"]) == 0
    assert "sent" not in json.loads(capsys.readouterr().out)


async def test_waiting_in_a_paused_queue_says_so(redis: Redis, keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody looks for a fault of the email when an operator has paused the queue."""
    assert await asyncio.to_thread(main, [*COMMAND, "--wait", "50ms"]) == 1
    assert "paused" not in capsys.readouterr().out
    await redis.set(keys("meta-paused"), 1)
    assert await asyncio.to_thread(main, [*COMMAND, "--wait", "50ms"]) == 1
    assert "the queue is paused: flowstate-daemon queue resume" in " ".join(capsys.readouterr().out.split())

"""`queue retry --all` and `queue audit` as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli.main import main
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture

pytestmark = pytest.mark.usefixtures("queue_environment")

FAILED = {"finishedOn": 2, "failedReason": "no"}
SET_ASIDE = {"finishedOn": 2, "failedReason": "parked: it may have been sent"}


@pytest.fixture
async def stage(redis: Redis, keys: Keys) -> QueueFixture:
    stage = QueueFixture(redis, keys)
    for number in range(3):
        await stage.put(f"f{number}", "failed", **FAILED)
    for number in range(4):
        await stage.put(f"p{number}", "failed", **SET_ASIDE)
    return stage


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


async def test_retry_all_leaves_out_what_may_have_been_sent(
    stage: QueueFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says how many and what to do; `--maybe-sent` asks for them by name."""
    assert await run("queue", "retry", "--all") == 0
    output = capsys.readouterr().out
    assert "retried: 3" in output
    assert "left out: 4, because their emails may have been sent" in output
    assert await run("queue", "retry", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"retried": 0, "maybe_sent": 4}
    assert await run("queue", "retry", "--all", "--maybe-sent", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"retried": 4, "maybe_sent": 0}
    assert await run("queue", "retry", "f0", "--maybe-sent") == 64


@pytest.mark.parametrize(("answer", "options", "left"), [("n", [], 7), ("y", [], 4), ("", ["--yes"], 4)])
async def test_retry_all_asks_on_a_terminal(
    stage: QueueFixture, monkeypatch: pytest.MonkeyPatch, answer: str, options: list[str], left: int
) -> None:
    """Nothing happens without a yes; `--yes` is for those who know."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []

    def confirm(text: str, **_options: object) -> bool:
        asked.append(text)
        if answer != "y":
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr("click.confirm", confirm)
    assert (await run("queue", "retry", "--all", *options) == 0) is (left == 4)
    assert await stage.redis.zcard(stage.keys("failed")) == left
    assert asked == ([] if options else ["Retry up to 7 failed jobs?"])


@pytest.mark.parametrize(
    ("made", "allowed", "shown"), [(1, 4, "1 / 4"), (2, 2, "2 / 2"), (3, 2, "3 (2 allowed, then retried manually)")]
)
async def test_attempts_are_shown_as_on_the_pages(
    redis: Redis, keys: Keys, capsys: pytest.CaptureFixture[str], made: int, allowed: int, shown: str
) -> None:
    """In the list and of one job; as JSON both numbers of Bull stay."""
    jobs = QueueFixture(redis, keys)
    await jobs.put("again", "failed", **FAILED, attemptsMade=made, opts=f'{{"attempts":{allowed}}}')
    for command in (["list", "failed"], ["show", "again"]):
        assert await run("queue", *command) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if shown in line]
        assert len(lines) == 1, command
    assert await run("queue", "show", "again", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["attempts_made"], document["attempts"]) == (made, allowed)


async def test_audit_shows_who_did_what(stage: QueueFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Also the retry of the provider, and as a document."""
    for command in (["queue", "pause"], ["queue", "remove", "f0"], ["provider", "retry"]):
        assert await run(*command) == 0
    capsys.readouterr()
    assert await run("queue", "audit") == 0
    output = capsys.readouterr().out
    assert "actions: 3" in output
    assert "queue remove" in output
    assert await run("queue", "audit", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["action"] for one in document] == ["provider retry", "queue remove", "queue pause"]
    assert all(" on " in one["actor"] and one["at"] > 0 for one in document)

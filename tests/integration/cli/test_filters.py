"""`queue list|retry|remove|promote|clean` with filters and several ids, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli.main import main
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture

pytestmark = pytest.mark.usefixtures("queue_environment")

DAY_MS = 86_400_000
Capture = pytest.CaptureFixture[str]


@pytest.fixture
async def stage(redis: Redis, keys: Keys) -> QueueFixture:
    """Five failed jobs: two codes for Ada (one old), two welcome emails for Bob, one that may have been sent."""
    stage = QueueFixture(redis, keys)
    now = time.time_ns() // 1_000_000
    rows = (
        ("o1", "otp", "ada@example.org", now - 1000, "422 invalid address"),
        ("o2", "otp", "ada@example.org", now - 10 * DAY_MS, "422 invalid address"),
        ("w1", "welcome", "Bob@Example.org", now - 2 * DAY_MS, "timeout after 10 s"),
        ("w2", "welcome", "bob@example.org", now - 3 * DAY_MS, "timeout after 12 s"),
        ("p1", "welcome", "eve@example.org", now - DAY_MS, "parked: it may have been sent"),
    )
    for job_id, name, to, at, reason in rows:
        data = json.dumps({"to": to, "context": {}})
        await stage.put(job_id, "failed", name=name, data=data, at=at, finishedOn=at, failedReason=reason)
    for number in range(3):
        data = json.dumps({"to": f"{number}@example.org"})
        await stage.put(f"d{number}", "delayed", name="otp" if number else "welcome", data=data)
    return stage


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


async def members(stage: QueueFixture, state: str) -> set[str]:
    return set(await stage.redis.zrange(stage.keys(state), 0, -1))


FILTERS = [
    (["--kind", "otp"], {"o1", "o2"}),
    (["--kind", "otp", "--kind", "welcome"], {"o1", "o2", "w1", "w2", "p1"}),
    (["--to", "BOB@"], {"w1", "w2"}),
    (["--reason", "timeout after * s"], {"w1", "w2"}),
    (["--newer-than", "2h"], {"o1"}),
    (["--older-than", "60h"], {"o2", "w2"}),
    (["--older-than", "12h", "--newer-than", "5d"], {"w1", "w2", "p1"}),
    (["--kind", "otp", "--older-than", "604800"], {"o2"}),
    (["--kind", "nothing"], set()),
]


@pytest.mark.parametrize(
    ("options", "expected"), FILTERS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
async def test_list_shows_what_matches(
    stage: QueueFixture, capsys: Capture, options: list[str], expected: set[str]
) -> None:
    """Each filter alone, and together."""
    assert await run("queue", "list", "failed", *options, "--json") == 0
    assert {job["id"] for job in json.loads(capsys.readouterr().out)} == expected


@pytest.mark.parametrize(
    ("options", "expected"), FILTERS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
@pytest.mark.parametrize("command", [["clean", "failed"], ["remove", "--state", "failed"]], ids=" ".join)
async def test_only_what_matches_is_deleted(
    stage: QueueFixture, capsys: Capture, command: list[str], options: list[str], expected: set[str]
) -> None:
    """A dry run names the same jobs and changes nothing."""
    before = await members(stage, "failed")
    assert await run("queue", *command, *options, "--dry-run", "--json") == 0
    preview = json.loads(capsys.readouterr().out)
    assert (preview["would_remove"], set(preview["first"])) == (len(expected), expected)
    assert await members(stage, "failed") == before
    assert await run("queue", *command, *options, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"removed": len(expected)}
    assert await members(stage, "failed") == before - expected


async def test_remove_by_filter_covers_all_states_but_active(stage: QueueFixture, capsys: Capture) -> None:
    """Failed and delayed codes go; an active one stays."""
    await stage.put("a1", "active", name="otp", data="{}")
    assert await run("queue", "remove", "--kind", "otp", "--yes") == 0
    assert capsys.readouterr().out == "removed: 4\n"
    assert await members(stage, "failed") == {"w1", "w2", "p1"}
    assert await members(stage, "delayed") == {"d0"}
    assert await stage.redis.llen(stage.keys("active")) == 1


async def test_retry_and_promote_change_only_what_matches(stage: QueueFixture, capsys: Capture) -> None:
    """What may have been sent is left out, also by a filter."""
    assert await run("queue", "retry", "--kind", "welcome", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"retried": 2, "maybe_sent": 1}
    assert await members(stage, "failed") == {"o1", "o2", "p1"}
    assert await run("queue", "promote", "--kind", "otp") == 0
    assert capsys.readouterr().out == "promoted: 2\n"
    assert await members(stage, "delayed") == {"d0"}


@pytest.mark.parametrize(
    ("command", "done"), [("retry", "retried"), ("remove", "removed"), ("promote", "promoted")], ids=str
)
async def test_several_ids(stage: QueueFixture, capsys: Capture, command: str, done: str) -> None:
    """Those that can be changed are; the exit code and the document say that others were not."""
    ids = ["d0", "d1"] if command == "promote" else ["o1", "w1"]
    assert await run("queue", command, *ids, "--dry-run") == 0
    assert capsys.readouterr().out == f"would {command}: 2\n"
    assert await run("queue", command, *ids, "lost", ids[0], "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document[done] == 2
    assert [error["id"] for error in document["errors"]] == ["lost"]
    assert not set(ids) & (await members(stage, "failed") | await members(stage, "delayed"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"], ["remove"], ["promote"],
        ["retry", "o1", "--all"], ["retry", "o1", "--kind", "otp"], ["remove", "o1", "--to", "ada"],
        ["promote", "d0", "--older-than", "1d"], ["remove", "--state", "failed"], ["remove", "--state", "active"],
        ["clean", "failed"], ["clean", "failed", "--kind", "otp"], ["remove", "--kind", "otp"],
    ],
    ids=" ".join,
)  # fmt: skip
async def test_nothing_is_changed_by_accident(stage: QueueFixture, arguments: list[str]) -> None:
    """No selection, two selections, and what deletes without a terminal or --yes."""
    assert await run("queue", *arguments) == 64
    assert len(await members(stage, "failed")) == 5
    assert len(await members(stage, "delayed")) == 3


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["clean", "failed", "--grace", "7d"], "Remove 1 failed job (older than "),
        (["clean", "failed", "--limit", "2"], "Remove 2 failed jobs?"),
        (["remove", "--to", "ada"], "Remove 2 failed jobs (recipient contains 'ada')?"),
        (["retry", "--kind", "otp"], "Retry up to 2 failed jobs (kind otp)?"),
        (["promote", "--all"], "Promote 3 delayed jobs?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_a_terminal_asks_with_the_count(
    stage: QueueFixture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], question: str
) -> None:
    """A no changes nothing; --yes does not ask."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []

    def refuse(text: str, **_options: object) -> bool:
        asked.append(text)
        raise KeyboardInterrupt

    monkeypatch.setattr("click.confirm", refuse)
    assert await run("queue", *arguments) == 130
    assert len(asked) == 1
    assert asked[0].startswith(question)
    assert (len(await members(stage, "failed")), len(await members(stage, "delayed"))) == (5, 3)
    assert await run("queue", *arguments, "--yes") == 0
    assert len(asked) == 1


async def test_failed_jobs_are_listed_with_recipient_and_time(
    stage: QueueFixture, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is masked unless it is asked for; a job without one is listed too."""
    monkeypatch.setenv("COLUMNS", "200")
    await stage.put("odd", "failed", name="x", data="[]", finishedOn=2, failedReason="no")
    assert await run("queue", "list", "failed") == 0
    output = capsys.readouterr().out
    assert "failed (UTC)" in output
    assert "a***@example.org" in output
    assert "ada@" not in output
    assert time.strftime("%Y-%m-%d", time.gmtime()) in output
    assert await run("queue", "list", "failed", "--reveal") == 0
    assert "ada@example.org" in capsys.readouterr().out


async def test_failures_are_grouped(stage: QueueFixture, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two reasons that differ in a number are one group; the hint finds its jobs."""
    monkeypatch.setenv("COLUMNS", "200")
    assert await run("queue", "failures") == 0
    output = capsys.readouterr().out
    assert "failed jobs: 5 in 3 groups" in output
    assert "welcome 2" in output
    assert await run("queue", "failures", "--json") == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [group["count"] for group in groups] == [2, 2, 1]
    for group in groups:
        assert await run("queue", "list", "failed", "--reason", group["pattern"], "--json") == 0
        assert {job["id"] for job in json.loads(capsys.readouterr().out)} == set(group["job_ids"])


async def test_empty_queue_has_no_failures(redis: Redis, keys: Keys, capsys: Capture) -> None:
    """One line, and an empty document."""
    assert await run("queue", "failures") == 0
    assert capsys.readouterr().out == "no failed jobs\n"

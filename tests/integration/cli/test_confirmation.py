"""Every command that deletes: without a terminal and `--yes` it fails, says what to add, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import click
import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli.main import COMMANDS, app, main
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

ADDRESS, NOBODY = "ada@example.org", "nobody@example.org"
FILE = "list.csv"
DELETING = {
    "queue remove": ["queue", "remove", "--kind", "welcome"],
    "queue clean": ["queue", "clean", "failed"],
    "forget": ["forget", ADDRESS],
    "suppression export": ["suppression", "export", FILE],
    "unsubscribed export": ["unsubscribed", "export", FILE],
}
# They ask on a terminal, because many jobs are concerned, but delete nothing.
OTHERS_THAT_ASK = {"queue retry", "queue promote"}
NOTHING_TO_DELETE = {"queue remove": ["queue", "remove", "--kind", "otp"], "forget": ["forget", NOBODY]}
TABLES = ("suppressions", "unsubscribes", "operator_actions")
Run = Callable[..., Awaitable[int]]
every_command = pytest.mark.parametrize("arguments", DELETING.values(), ids=DELETING.keys())


@dataclass
class Stores:
    """What commands can delete: jobs, rows of the lists, and a file."""

    jobs: QueueFixture
    pool: asyncpg.Pool
    folder: Path

    async def everything(self) -> tuple[Any, ...]:
        rows = [await self.pool.fetch(f"SELECT * FROM flowstate_daemon.{table} ORDER BY 1, 2") for table in TABLES]
        return (
            await self.jobs.dump(),
            [[tuple(row) for row in found] for found in rows],
            (self.folder / FILE).read_text(),
        )


@pytest.fixture
async def stores(
    redis: Redis,
    keys: Keys,
    pool: asyncpg.Pool,
    valkey_url: str,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Stores:
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("FLOWSTATE_QUEUE_PREFIX", keys.prefix)
    monkeypatch.setenv("FLOWSTATE_HTTP_LINK_SECRET", "f3a91c05be24d68a7f3a91c05be24d68")
    monkeypatch.chdir(tmp_path)
    jobs = QueueFixture(redis, keys)
    await jobs.put("f1", "failed", data=json.dumps({"to": ADDRESS}), finishedOn=2, failedReason="no")
    lists = Suppressions(pool, FakeClock())
    await lists.add(ADDRESS, "manual", None, actor="eve")
    await lists.unsubscribe(ADDRESS, "task-reminder")
    (tmp_path / FILE).write_text("old")
    return Stores(jobs, pool, tmp_path)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes a terminal on which a person answers every question."""

    def answer(agrees: bool) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)

        def confirm(_text: str, *, abort: bool, err: bool) -> bool:
            assert (abort, err) == (True, True), "the question is not part of the output"
            if not agrees:
                raise click.Abort
            return True

        monkeypatch.setattr("click.confirm", confirm)

    return answer


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


def commands_with_yes(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands_with_yes(command, (*path, name))
        elif any("--yes" in parameter.opts for parameter in command.params):
            yield " ".join((*path, name))


def test_no_command_that_asks_is_left_out() -> None:
    assert len(COMMANDS) > 10
    assert set(commands_with_yes(app)) == DELETING.keys() | OTHERS_THAT_ASK


@every_command
async def test_without_a_terminal_it_fails_unless_told_yes(
    stores: Stores, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Exit code 64 and `add --yes`, as text and as one JSON document; with --yes it does its work."""
    before = await stores.everything()
    assert await run(*arguments) == 64
    assert "add --yes" in capsys.readouterr().err
    assert await run(*arguments, "--json") == 64
    document = json.loads(capsys.readouterr().out)
    assert (document["exit_code"], "add --yes" in document["reasons"][0]) == (64, True)
    assert await stores.everything() == before
    assert await run(*arguments, "--yes") == 0
    assert await stores.everything() != before


@pytest.mark.parametrize("arguments", NOTHING_TO_DELETE.values(), ids=NOTHING_TO_DELETE.keys())
async def test_a_script_learns_it_before_there_is_anything_to_delete(stores: Stores, arguments: list[str]) -> None:
    """Otherwise it is found only when the first person is to be forgotten."""
    assert await run(*arguments) == 64
    assert await run(*arguments, "--yes") == 0


@every_command
@pytest.mark.parametrize("output", [[], ["--json"]], ids=["text", "json"])
async def test_on_a_terminal_it_asks(
    stores: Stores, answer: Callable[[bool], None], arguments: list[str], output: list[str]
) -> None:
    """Declined is 130 and changes nothing."""
    before = await stores.everything()
    answer(False)
    assert await run(*arguments, *output) == 130
    assert await stores.everything() == before
    answer(True)
    assert await run(*arguments, *output) == 0
    assert await stores.everything() != before


@pytest.mark.parametrize("name", ["queue remove", "queue clean", "forget"])
@pytest.mark.parametrize("output", [[], ["--json"]], ids=["text", "json"])
async def test_dry_run_needs_no_terminal(
    stores: Stores, capsys: pytest.CaptureFixture[str], name: str, output: list[str]
) -> None:
    """It shows what there is, and is a success."""
    before = await stores.everything()
    assert await run(*DELETING[name], "--dry-run", *output) == 0
    shown = capsys.readouterr().out
    assert "1" in (json.dumps(json.loads(shown)) if output else shown)
    assert await stores.everything() == before

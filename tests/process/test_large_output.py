"""Commands with much output: ten thousand rows, a reader that stops, no standard output, no colours in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli.main import COMMANDS, app
from flowstate_daemon.redis_client.keys import Keys

ROWS = 10_000
PROGRAM = f"{sys.executable} -m flowstate_daemon"
FILL = """
for number = 1, tonumber(ARGV[2]) do
  local id = 'f' .. number
  redis.call('HSET', ARGV[1] .. id, 'name', 'welcome', 'data', '{"to":"p' .. number .. '@example.org"}', 'opts', '{}',
    'timestamp', '1', 'failedReason', '\u65e5\u672c\u8a9e \27[31mred', 'finishedOn', '2')
  redis.call('ZADD', KEYS[1], number, id)
end
"""


@pytest.fixture
async def environment(redis: Redis, keys: Keys, valkey_url: str) -> dict[str, str]:
    await redis.eval(FILL, 1, keys("failed"), keys.base, ROWS)
    return {"PATH": os.environ["PATH"], "REDIS_URL": valkey_url, "FLOWSTATE_QUEUE_PREFIX": keys.prefix}


def shell(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], check=False, capture_output=True, text=True, env=environment, timeout=100
    )


async def test_ten_thousand_rows_are_complete(environment: dict[str, str]) -> None:
    """A table in a pipe has one line a row; text of others brings no colour and no control character."""
    done = shell(f"{PROGRAM} queue list failed --limit {ROWS}", environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("f")]) == ROWS
    assert "\x1b" not in done.stdout
    assert "\u65e5\u672c\u8a9e" in lines[-1]


@pytest.mark.parametrize("options", ["", "--json"])
async def test_reader_that_stops_ends_the_command_quietly(environment: dict[str, str], options: str) -> None:
    """`| head`: no traceback and no complaint of Python at its exit."""
    done = shell(f"{PROGRAM} queue list failed --limit {ROWS} {options} | head -n 3", environment)
    assert len(done.stdout.splitlines()) == 3
    assert [line for line in done.stderr.splitlines() if not line.startswith("flowstate-daemon: queue ")] == []


@pytest.mark.parametrize("closing", [">&-", ">&- 2>&-", "<&-"])
async def test_closed_standard_streams_are_no_bug(environment: dict[str, str], closing: str) -> None:
    """A service manager or a script may close them."""
    done = shell(f"{PROGRAM} queue list failed --limit 5 {closing}; echo code $?", environment)
    assert done.stdout.splitlines()[-1] in {"code 0", "code 1"}, done
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command with its path."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        children = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
        return [leaf for name, child in children if child is not None for leaf in leaves(child, (*path, name))]
    return [(path, command)]


def test_every_command_has_json_output() -> None:
    """Except the daemon itself."""
    found = leaves(app)
    assert {path[0] for path, _ in found} == set(COMMANDS)
    without = {" ".join(path) for path, command in found if "--json" not in {o for p in command.params for o in p.opts}}
    assert without == {"run"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["queue", "lst"], 64),
        (["queue", "list", "failed", "--limt", "3"], 64),
        (["queue", "show", "missing"], 1),
        (["queue", "clean", "failed"], 64),
        (["queue", "remove", "--kind", "welcome"], 64),
        (["suppression", "list"], 78),
    ],
)
async def test_exit_codes_are_those_that_are_documented(
    environment: dict[str, str], arguments: list[str], code: int
) -> None:
    """Without a terminal, what destroys by a filter needs --yes."""
    done = shell(f"{PROGRAM} {' '.join(arguments or ['queue', 'status'])} </dev/null", environment)
    assert done.returncode == code, done
    unreachable = environment | {"REDIS_URL": "redis://127.0.0.1:1"}
    if code == 0:
        assert shell(f"{PROGRAM} queue status", unreachable).returncode == 69

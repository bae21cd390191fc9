"""docs/flowstate-backend.patch: it applies, and each change does what docs/takeover.md says, with npm bull.

The tree that it is applied to has the affected lines of the backend and little else.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli.check.redis import evaluate_bull_workers
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

HERE = Path(__file__).parent
PATCH = HERE.parents[1] / "docs" / "flowstate-backend.patch"
QUEUE, APP = "backend/src/email-queue/*", "backend/src/app/*"
SERVICE, MODULE = "backend/src/email-queue/email-queue.service.ts", "backend/src/email-queue/email-queue.module.ts"
APP_MODULE = "backend/src/app/app.module.ts"


def git_apply(tree: Path, *options: str) -> None:
    """Apply the patch as the page says; outside a repository `git apply` works too."""
    subprocess.run(["git", "apply", *options, str(PATCH)], cwd=tree, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return shutil.copytree(HERE / "flowstate_backend", tmp_path / "backend")


def lines(tree: Path, name: str) -> list[str]:
    return [line.strip() for line in (tree / name).read_text().splitlines()]


def limit(tree: Path) -> str:
    """The number of errors after which the backend gives the queue up, as its source says it."""
    (found,) = re.findall(r"MAX_QUEUE_ERRORS = ([\w.]+);", (tree / SERVICE).read_text())
    return str(found)


def test_patch_applies_in_two_steps(tree: Path) -> None:
    """The queue first, then the schedules: after each step only its own files have changed."""
    before = {name: lines(tree, name) for name in (SERVICE, MODULE, APP_MODULE)}
    git_apply(tree, f"--include={QUEUE}")
    assert lines(tree, APP_MODULE) == before[APP_MODULE]
    assert limit(tree) == "Number.POSITIVE_INFINITY"
    assert set(before[MODULE]) - set(lines(tree, MODULE)) == {
        "import { EmailProcessor } from './email.processor';",
        "// Only register EmailProcessor if Redis is available (it needs the queue)",
        "...(redisAvailable ? [EmailProcessor] : []),",
    }
    git_apply(tree, f"--include={APP}")
    assert [line for line in before[APP_MODULE] if line not in lines(tree, APP_MODULE)] == [
        "import { SchedulerModule } from '../scheduler/scheduler.module';",
        "SchedulerModule,",
    ]


def test_patch_can_be_taken_back(tree: Path) -> None:
    """A rollback restores every file exactly; nothing but the three files is in the patch."""
    before = {name: (tree / name).read_bytes() for name in (SERVICE, MODULE, APP_MODULE)}
    git_apply(tree)
    assert {name for name in before if (tree / name).read_bytes() != before[name]} == before.keys()
    git_apply(tree, "--reverse")
    assert {name: (tree / name).read_bytes() for name in before} == before
    assert set(re.findall(r"^\+\+\+ b/(.+)$", PATCH.read_text(), re.MULTILINE)) == before.keys()


@pytest.mark.parametrize("name", ["EmailProcessor", "SchedulerModule"])
def test_nothing_removed_is_still_named(tree: Path, name: str) -> None:
    """Else the backend would not compile, or its linter would complain of an import that is not used."""
    git_apply(tree)
    assert not [file for file in (SERVICE, MODULE, APP_MODULE) if name in (tree / file).read_text()]


class Backend:
    """The fallback of the backend in a process of node."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    async def failed_thrice(self) -> bool:
        return bool((await self.ask("state"))["errors"] >= 3)

    async def connected(self) -> bool:
        return bool((await self.ask("state"))["connected"])


StartBackend = Callable[[str, str], Awaitable[Backend]]


@pytest.fixture
async def start_backend(node_modules: None, keys: Keys) -> AsyncIterator[StartBackend]:
    started: list[Process] = []

    async def start(url: str, errors: str) -> Backend:
        arguments = ("fallback.mjs", url, keys.prefix, errors)
        started.append(await asyncio.create_subprocess_exec("node", *arguments, cwd=HERE, stdin=PIPE, stdout=PIPE))
        return Backend(started[-1])

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(("is_patched", "then"), [(False, "direct"), (True, "queue")])
async def test_backend_after_a_short_outage_of_redis(
    start_backend: StartBackend, tree: Path, valkey_url: str, keys: Keys, redis: Redis, is_patched: bool, then: str
) -> None:
    """Today it sends directly although Redis is back, as Bull's queue emits no `ready`; with the patch it adds jobs."""
    if is_patched:
        git_apply(tree, f"--include={QUEUE}")
    address = urlsplit(valkey_url)
    async with FaultProxy(address.hostname or "127.0.0.1", address.port or 6379) as proxy:
        backend = await start_backend(f"redis://127.0.0.1:{proxy.port}", limit(tree))
        assert await backend.ask("add") == "queue"
        await proxy.refuse()
        proxy.cut()
        await eventually(backend.failed_thrice, "three errors", within_s=30)
        assert await backend.ask("add") == "direct"
        await proxy.admit()
        await eventually(backend.connected, "connected again", within_s=30)
        added = int(await redis.get(keys("id")))
        assert await backend.ask("add") == then
        assert int(await redis.get(keys("id"))) == added + (then == "queue")
        assert (await backend.ask("state"))["readies"] == 0


async def test_worker_of_the_backend_is_seen_until_it_is_removed(
    q: NodeQueue, connection: Connection, keys: Keys
) -> None:
    """A backend that only adds jobs is no worker; `check` names one that processes them, and the page that helps."""
    inspector = Inspector(connection, keys)
    await q.add("welcome", {"type": "welcome"}, delay=60_000)
    assert evaluate_bull_workers(await inspector.foreign_workers(), keys).level is Level.OK
    await q.process(kind="return")

    async def is_seen() -> bool:
        return evaluate_bull_workers(await inspector.foreign_workers(), keys).level is Level.WARN

    await eventually(is_seen, "the worker in the list of clients")
    assert "docs/takeover.md" in str(evaluate_bull_workers(await inspector.foreign_workers(), keys).remedy)

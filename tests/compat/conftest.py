"""The node side of the compatibility tests: installed once, one process for the session, one queue a test."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from flowstate_daemon.queue.keys import Keys
from tests.compat.driver import Driver, NodeQueue

HERE = Path(__file__).parent
LOCK = HERE / "package-lock.json"
INSTALLED = HERE / "node_modules" / ".package-lock.json"
INSTALL_S = 300

OpenNode = Callable[..., Awaitable[NodeQueue]]


def do_without(reason: str) -> None:
    """Skip here, fail in CI: a run that tested nothing must not look green there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node_modules() -> None:
    """npm's packages in the versions of the lock file."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        do_without("node and npm are needed for the tests against npm bull; they are not on the PATH")
    if INSTALLED.exists() and INSTALLED.stat().st_mtime >= LOCK.stat().st_mtime:
        return
    npm = subprocess.run(
        ["npm", "ci"], cwd=HERE, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if npm.returncode:
        last = "\n".join(npm.stderr.strip().splitlines()[-5:])
        do_without(f"`npm ci` in tests/compat failed (is there a way to a package registry?):\n{last}")


@pytest.fixture(scope="session")
async def driver(node_modules: None) -> AsyncIterator[Driver]:
    """One node process with npm bull for the whole session; it must still stand at the end."""
    driver = await Driver.start()
    yield driver
    await driver.close()
    assert driver.fatal is None, driver.fatal


@pytest.fixture
async def open_node(driver: Driver, valkey_url: str, keys: Keys) -> AsyncIterator[OpenNode]:
    """Opens queues in the node process, on the test's own keys; closes them afterwards."""
    opened: list[NodeQueue] = []

    async def open_node(prefix: str | None = None, **options: Any) -> NodeQueue:
        opened.append(await driver.open(valkey_url, prefix or keys.prefix, keys.name, **options))
        return opened[-1]

    yield open_node
    await asyncio.gather(*(queue.close() for queue in opened))
    assert driver.fatal is None, driver.fatal


@pytest.fixture
async def q(open_node: OpenNode) -> NodeQueue:
    """npm bull's `Queue`, as the checklist calls it."""
    return await open_node()

"""Fixtures of the compatibility tests: npm packages installed once, one node process a session, one queue a test."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.worker import WorkerOptions
from tests.compat.driver import Driver, NodeQueue, OpenNode
from tests.compat.packages import MissingPackagesError, install
from tests.compat.worker import StartChild, StartWorker, WorkerHarness, start_child


def skip_or_fail(reason: str) -> None:
    """Skip, but fail in CI, where a run without these tests must not pass."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node_modules() -> None:
    """The npm packages in the versions of the lock file."""
    try:
        install()
    except MissingPackagesError as missing:
        skip_or_fail(str(missing))


@pytest.fixture(scope="session")
async def driver(node_modules: None) -> AsyncIterator[Driver]:
    """One node process with npm bull for the whole session; it must not have crashed at the end."""
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
    """A `Queue` of npm bull."""
    return await open_node()


@pytest.fixture
async def start_worker(valkey_url: str, keys: Keys) -> AsyncIterator[StartWorker]:
    """Starts Python workers on the test's queue, with options of the worker; stops them afterwards."""
    started: list[WorkerHarness] = []

    async def start_worker(on: Keys | None = None, **options: Any) -> WorkerHarness:
        started.append(WorkerHarness(valkey_url, on or keys, WorkerOptions(**options)))
        await started[-1].start()
        return started[-1]

    yield start_worker
    await asyncio.gather(*(worker.stop() for worker in started))


@pytest.fixture
async def w(start_worker: StartWorker) -> WorkerHarness:
    """A Python worker on the queue of the test."""
    return await start_worker()


@pytest.fixture
async def start_child_worker(valkey_url: str, keys: Keys) -> AsyncIterator[StartChild]:
    """Starts Python workers in their own processes; kills those still running afterwards."""
    started: list[Process] = []

    async def start_child_worker(**options: Any) -> Process:
        started.append(await start_child(valkey_url, keys, WorkerOptions(**options)))
        return started[-1]

    yield start_child_worker
    for child in started:
        if child.returncode is None:
            child.kill()
        await child.wait()

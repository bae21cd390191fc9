"""Fixtures for tests of the whole process: a fake provider, and daemons that run on the test's own queue."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from flowstate_daemon.redis_client.keys import Keys
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
async def provider() -> AsyncIterator[FakeResend]:
    """The strict fake of Resend, without a rate limit unless the test sets one."""
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
async def make_daemon(valkey_url: str, keys: Keys, provider: FakeResend, tmp_path: Path) -> AsyncIterator[MakeDaemon]:
    """Creates daemons on the test's own queue; those that still run at the end are killed."""
    made: list[Daemon] = []

    def make(
        instance: str = "test",
        *,
        module: str = "flowstate_daemon",
        inherited_socket: socket.socket | None = None,
        stderr: int | None = None,
        closed: Sequence[int] = (),
        terminal: int | None = None,
        **settings: str,
    ) -> Daemon:
        environment = {
            "REDIS_URL": valkey_url,
            "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
            "RESEND_API_URL": provider.url,
            "RESEND_API_KEY": provider.api_key,
            **settings,
        }
        daemon = Daemon(
            environment,
            tmp_path,
            instance=instance,
            module=module,
            inherited_socket=inherited_socket,
            stderr=stderr,
            closed=closed,
            terminal=terminal,
        )
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        await daemon.kill()

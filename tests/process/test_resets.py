"""The whole daemon, whose connections to Redis are reset again and again: it stays, and sends every email once."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.redis_topologies import proxied_redis
from tests.support.waiting import eventually

RESETS = 12
EMAILS_PER_RESET = 20


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_resets_of_all_connections(
    valkey_url: str,
    make_daemon: MakeDaemon,
    provider: FakeResend,
    connection: Connection,
    keys: Keys,
    tmp_path: Path,
    tls: bool,
    busy: bool,
) -> None:
    """The process lives, ready is green again, no email is lost and none is sent twice."""
    async with (
        proxied_redis(valkey_url, tmp_path, tls=tls) as target,
        make_daemon(**target.settings) as daemon,
    ):
        await daemon.ready()
        for number in range(RESETS):
            opened = target.proxy.accepted
            if busy:
                await enqueue(connection, keys, EMAILS_PER_RESET, first=number * EMAILS_PER_RESET)
            target.proxy.cut()
            await eventually(lambda opened=opened: target.proxy.accepted > opened, "it connects again")  # type: ignore[misc]
            assert daemon.process is not None
            assert daemon.process.returncode is None, daemon.log_text()[-3000:]
        if not busy:
            await enqueue(connection, keys, EMAILS_PER_RESET)
        emails = EMAILS_PER_RESET * (RESETS if busy else 1)
        await eventually(lambda: len(provider.accepted) >= emails, f"{emails} emails")
        await eventually(daemon.is_ready, "ready is green")
        assert daemon.process is not None
        assert daemon.process.returncode is None
    assert provider.duplicates() == []
    assert len(provider.accepted) == emails

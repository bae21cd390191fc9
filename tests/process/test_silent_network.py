"""The daemon behind a network that drops connections silently: a code waits under two seconds."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import FakeResend
from tests.support.redis_topologies import proxied_redis
from tests.support.waiting import eventually

ROUNDS = 4
MAX_WAIT_S = 4.0  # 2 s on a quiet machine; a broken connection held a code for 8 to 30 s before


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_code_waits_under_two_seconds(
    valkey_url: str,
    make_daemon: MakeDaemon,
    provider: FakeResend,
    connection: Connection,
    keys: Keys,
    tmp_path: Path,
    tls: bool,
) -> None:
    """All connections to Redis are forgotten at the same time, and a code is added at once; several times."""
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)

    async def waits() -> bool:
        return b"cmd=blmove" in await connection.execute("CLIENT", "LIST")

    async with proxied_redis(valkey_url, tmp_path, tls=tls) as target, make_daemon(**target.settings) as daemon:
        await daemon.ready()
        for number in range(ROUNDS):
            await eventually(waits, "the daemon waits for jobs")
            await target.proxy.forget()
            started = monotonic()
            await producer.enqueue_many([NewMail("otp", f"ada{number}@example.org", {"otpCode": "123456"})])
            await eventually(lambda number=number: len(provider.accepted) > number, "the code")  # type: ignore[misc]
            assert monotonic() - started < MAX_WAIT_S
        assert daemon.process is not None
        assert daemon.process.returncode is None
    assert provider.duplicates() == []

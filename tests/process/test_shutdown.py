"""SIGTERM ends the daemon within its deadline, whatever hangs, and an orderly stop leaves no outcome behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_ledger_process import outcomes
from tests.process.test_lifecycle import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.proxy import FaultProxy
from tests.support.svix import SECRET, report, signed
from tests.support.waiting import eventually

# The default deadline is 8 s, and Docker kills after 10 s. A busy machine needs more; what hangs takes 25 s and more.
BOUND_S = 15.0
READY_S = 60.0


@pytest.fixture
async def postgres_proxy(database_url: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(parse_qs(urlsplit(database_url).query)["host"][0], 5432) as proxy:
        yield proxy


@pytest.fixture
def proxied_url(postgres_proxy: FaultProxy, database_url: str) -> str:
    return f"postgresql://postgres@127.0.0.1:{postgres_proxy.port}{urlsplit(database_url).path}"


async def stopped_after_s(daemon: Daemon, *, signals: int = 1) -> float:
    """Send SIGTERM; the time until the daemon has ended with exit code 0."""
    started = time.monotonic()
    for _ in range(signals):
        daemon.send(signal.SIGTERM)
        await eventually(lambda: daemon.events("draining"), "draining")
    assert await daemon.ended(within_s=60) == 0
    return time.monotonic() - started


async def active(redis: Redis, keys: Keys) -> int:
    return int(await redis.llen(keys("active")))


@pytest.mark.parametrize("mails", [0, 20])
async def test_frozen_postgres_does_not_delay_the_end(
    make_daemon: MakeDaemon,
    postgres_proxy: FaultProxy,
    proxied_url: str,
    connection: Connection,
    keys: Keys,
    redis: Redis,
    mails: int,
) -> None:
    """With the default deadline it ends before Docker kills it; jobs that wait for Postgres are back in the queue."""
    async with make_daemon(DATABASE_URL=proxied_url) as daemon:
        await daemon.ready(within_s=READY_S)
        await enqueue(connection, keys, 1)
        await eventually(lambda: daemon.events("mail_sent"), "one email sent")
        postgres_proxy.freeze()
        await enqueue(connection, keys, mails, first=1)
        if mails:
            await eventually(lambda: active(redis, keys), "jobs wait for Postgres", equals=mails)
        assert await stopped_after_s(daemon) < BOUND_S
        postgres_proxy.unfreeze()
    assert await active(redis, keys) == 0
    assert await redis.llen(keys("wait")) == mails


async def test_frozen_postgres_while_outcomes_are_written(
    make_daemon: MakeDaemon,
    postgres_proxy: FaultProxy,
    proxied_url: str,
    provider: FakeResend,
    connection: Connection,
    keys: Keys,
    database_url: str,
) -> None:
    """The outcomes stay in the journal, and the next start writes them: each once."""
    provider.hold()
    async with make_daemon(DATABASE_URL=proxied_url) as daemon:
        await daemon.ready(within_s=READY_S)
        await enqueue(connection, keys, 20)
        await eventually(lambda: provider.requests, "the request is at the provider")
        postgres_proxy.freeze()
        provider.release()
        await eventually(lambda: len(daemon.events("mail_sent")) == 20, "the emails are sent")
        assert await stopped_after_s(daemon) < BOUND_S
        assert await Journal(connection, keys).length() == 20
        postgres_proxy.unfreeze()
    async with make_daemon(DATABASE_URL=proxied_url) as daemon:

        async def written() -> bool:
            return await outcomes(database_url) == [("welcome", "sent")] * 20

        await eventually(written, "all outcomes in the ledger")


@pytest.mark.parametrize("mode", ["send", "shadow"])
async def test_postgres_that_is_frozen_since_the_start_does_not_delay_the_end(
    make_daemon: MakeDaemon, postgres_proxy: FaultProxy, proxied_url: str, connection: Connection, keys: Keys, mode: str
) -> None:
    """Also in shadow mode, and while emails wait for their recipients' data."""
    postgres_proxy.freeze()
    await enqueue(connection, keys, 5)
    async with make_daemon(DATABASE_URL=proxied_url, FLOWSTATE_MODE=mode) as daemon:
        await eventually(lambda: daemon.events("ready"), "started")
        started = time.monotonic()
        daemon.send(signal.SIGTERM)
        assert await daemon.ended(within_s=60) == 0
        assert time.monotonic() - started < BOUND_S
        postgres_proxy.unfreeze()


async def test_configured_deadline_is_kept(
    make_daemon: MakeDaemon,
    postgres_proxy: FaultProxy,
    proxied_url: str,
    connection: Connection,
    keys: Keys,
    redis: Redis,
) -> None:
    """A shorter deadline ends the daemon earlier, with requests to its HTTP port in progress too."""
    settings = {"FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S": "3", "FLOWSTATE_RESEND_WEBHOOK_SECRET": SECRET}
    async with make_daemon(DATABASE_URL=proxied_url, **settings) as daemon:
        await daemon.ready(within_s=READY_S)
        postgres_proxy.freeze()
        await enqueue(connection, keys, 5)
        await eventually(lambda: active(redis, keys), "jobs wait for Postgres", equals=5)
        body = report("email.delivered")
        head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
        _, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(
            f"POST /webhooks/resend HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
        assert await stopped_after_s(daemon) < BOUND_S / 2
        writer.close()
        postgres_proxy.unfreeze()
    assert await active(redis, keys) == 0


async def test_second_signal_ends_a_daemon_that_waits_for_postgres(
    make_daemon: MakeDaemon,
    postgres_proxy: FaultProxy,
    proxied_url: str,
    connection: Connection,
    keys: Keys,
    redis: Redis,
) -> None:
    """It does not wait for the deadline of the first one."""
    async with make_daemon(DATABASE_URL=proxied_url, FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S="60") as daemon:
        await daemon.ready(within_s=READY_S)
        postgres_proxy.freeze()
        await enqueue(connection, keys, 5)
        await eventually(lambda: active(redis, keys), "jobs wait for Postgres", equals=5)
        assert await stopped_after_s(daemon, signals=2) < BOUND_S
        postgres_proxy.unfreeze()
    assert await redis.llen(keys("wait")) == 5


async def test_frozen_redis_does_not_delay_the_end(
    make_daemon: MakeDaemon, valkey_url: str, connection: Connection, keys: Keys, provider: FakeResend, redis: Redis
) -> None:
    """Jobs stay active, and the next start of the instance resumes them: each email is sent once."""
    address = urlsplit(valkey_url)
    assert address.hostname is not None
    assert address.port is not None
    async with FaultProxy(address.hostname, address.port) as proxy:
        provider.hold()
        async with make_daemon(REDIS_URL=f"redis://127.0.0.1:{proxy.port}{address.path}") as daemon:
            await daemon.ready(within_s=READY_S)
            await enqueue(connection, keys, 5)
            await eventually(lambda: provider.requests, "the request is at the provider")
            proxy.freeze()
            provider.release()
            assert await stopped_after_s(daemon) < BOUND_S
            proxy.unfreeze()
    async with make_daemon():
        await eventually(lambda: len(provider.accepted) == 5, "all are sent")

        async def completed() -> bool:
            return await redis.zcard(keys("completed")) == 5 or await active(redis, keys) == 0

        await eventually(completed, "all are settled", within_s=60)
    assert provider.duplicates() == []


async def test_frozen_redis_and_postgres_do_not_delay_the_end(
    make_daemon: MakeDaemon,
    postgres_proxy: FaultProxy,
    proxied_url: str,
    valkey_url: str,
    connection: Connection,
    keys: Keys,
) -> None:
    """Nothing waits for one store and then for the other one: Docker kills two seconds after the deadline."""
    address = urlsplit(valkey_url)
    assert address.hostname is not None
    assert address.port is not None
    async with FaultProxy(address.hostname, address.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}{address.path}"
        settings = {"REDIS_URL": url, "FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S": "3"}
        async with make_daemon(DATABASE_URL=proxied_url, **settings) as daemon:
            await daemon.ready(within_s=READY_S)
            await enqueue(connection, keys, 1)
            await eventually(lambda: daemon.events("mail_sent"), "one email sent")
            proxy.freeze()
            postgres_proxy.freeze()
            assert await stopped_after_s(daemon) < BOUND_S / 2
            proxy.unfreeze()
            postgres_proxy.unfreeze()


@pytest.mark.parametrize("mails", [1, 300, 3000])
async def test_orderly_stop_leaves_no_outcome_in_the_journal(
    make_daemon: MakeDaemon, database_url: str, provider: FakeResend, connection: Connection, keys: Keys, mails: int
) -> None:
    """The outcomes of the last moment are in the ledger when the process has ended."""
    async with make_daemon(DATABASE_URL=database_url) as daemon:
        await daemon.ready(within_s=READY_S)
        await enqueue(connection, keys, mails)
        await eventually(lambda: len(provider.accepted) == mails, "all emails accepted", within_s=60)
        assert await stopped_after_s(daemon) < BOUND_S
    assert await Journal(connection, keys).length() == 0
    assert len(await outcomes(database_url)) == mails


async def test_stop_without_postgres_is_quick_and_keeps_the_journal(
    make_daemon: MakeDaemon,
    postgres_proxy: FaultProxy,
    proxied_url: str,
    provider: FakeResend,
    connection: Connection,
    keys: Keys,
) -> None:
    """A Postgres that refuses connections is not waited for."""
    provider.hold()
    async with make_daemon(DATABASE_URL=proxied_url) as daemon:
        await daemon.ready(within_s=READY_S)
        await enqueue(connection, keys, 3)
        await eventually(lambda: provider.requests, "the request is at the provider")
        await postgres_proxy.refuse()
        postgres_proxy.cut()
        provider.release()
        assert await stopped_after_s(daemon) < BOUND_S / 2
    assert await Journal(connection, keys).length() == 3


async def test_hostile_clients_do_not_delay_the_end(make_daemon: MakeDaemon) -> None:
    """Half-sent requests and clients that do not read are cut off."""
    async with make_daemon() as daemon:
        await daemon.ready(within_s=READY_S)
        writers = []
        for sent in (b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 30, b"GET /met", b"POST /x HTTP/1.1\r\nHost: a\r\n"):
            for _ in range(10):
                _, writer = await asyncio.open_connection("127.0.0.1", daemon.port, limit=1)
                writer.write(sent)
                writers.append(writer)
        assert await stopped_after_s(daemon) < BOUND_S / 2
        for writer in writers:
            with contextlib.suppress(OSError):
                writer.transport.abort()

"""The gateway behind a network that fails in every way a network fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.base.errors import RetryableError
from flowstate_daemon.delivery.resend_gateway import ResendGateway
from tests.integration.delivery.conftest import OpenGateway, mail, send, until
from tests.support.fake_resend import Answer, FakeResend
from tests.support.proxy import FaultProxy


@pytest.fixture
async def proxy(fake: FakeResend) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", fake.port) as proxy:
        yield proxy


@pytest.fixture
async def gateway(open_gateway: OpenGateway, proxy: FaultProxy) -> ResendGateway:
    """A gateway through the proxy, with little patience."""
    return await open_gateway(api_url=f"http://{proxy.host}:{proxy.port}", timeout_s=1.0)


async def test_a_swallowed_reply(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """The reply never comes: Retry; the same key then gets the id of the mail that was accepted once."""
    proxy.drop_replies = True
    with pytest.raises(RetryableError, match="did not answer"):
        await send(gateway, mail(), idempotency_key="k")
    assert len(fake.accepted) == 1
    proxy.drop_replies = False
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


@pytest.mark.parametrize("after", [0, 1, 20, 190])
async def test_a_reply_cut_short(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend, after: int) -> None:
    """The connection breaks before, in and after the reply's head: Retry, and the mail was accepted once."""
    proxy.cut_reply_after = after
    with pytest.raises(RetryableError):
        await send(gateway, mail(), idempotency_key="k")
    proxy.cut_reply_after = None
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_a_reset_under_way(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """A reset on a fresh connection while the provider works is a Retry; nothing is doubled."""
    fake.hold()
    task = asyncio.create_task(send(gateway, mail(), idempotency_key="k"))
    await until(lambda: fake.memory.under_way)
    proxy.cut()
    with pytest.raises(RetryableError, match="connection broke"):
        await task
    fake.release()
    await until(lambda: fake.accepted)
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_idle_connections_that_were_reset(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """Connections reset while idle cost no attempt: the next mail goes over a fresh one."""
    await send(gateway, mail(1), idempotency_key="k1")
    proxy.cut()
    await send(gateway, mail(2), idempotency_key="k2")
    assert len(fake.accepted) == 2
    assert proxy.accepted == 2


async def test_a_refused_connection(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """Nobody listens for a while: Retry, and all is well when the door opens again."""
    await proxy.refuse()
    with pytest.raises(RetryableError, match="no connection to the provider"):
        await send(gateway, mail(), idempotency_key="k")
    await proxy.admit()
    await send(gateway, mail(), idempotency_key="k")
    assert len(fake.accepted) == 1


async def test_a_frozen_network(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """A hang ends with the timeout, and the thaw brings the mail through once."""
    proxy.freeze()
    with pytest.raises(RetryableError, match="did not answer"):
        await send(gateway, mail(), idempotency_key="k")
    proxy.unfreeze()
    await send(gateway, mail(), idempotency_key="k")
    assert len(fake.accepted) == 1


async def test_a_slow_network(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """Latency under the timeout is only latency."""
    proxy.latency_s = 0.05
    await asyncio.gather(*(send(gateway, mail(n), idempotency_key=f"k{n}") for n in range(10)))
    assert (len(fake.accepted), fake.duplicates()) == (10, [])


async def test_an_endless_reply(gateway: ResendGateway, fake: FakeResend) -> None:
    """Whoever stands between us and the provider cannot fill our memory; the outcome is unknown."""
    fake.script(Answer(200, b'{"id":"' + b"a" * 5_000_000 + b'"}', {"content-type": "application/json"}))
    with pytest.raises(RetryableError, match="longer than"):
        await send(gateway, mail(), idempotency_key="k")
    assert (await send(gateway, mail(), idempotency_key="k")).provider_id == fake.accepted[0].id

"""The gateway behind a network that fails in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.base.errors import RetryableError
from flowstate_daemon.delivery.resend_gateway import ResendGateway
from tests.integration.delivery.conftest import OpenGateway, mail, send
from tests.support.fake_resend import Answer, FakeResend
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def proxy(fake: FakeResend) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", fake.port) as proxy:
        yield proxy


@pytest.fixture
async def gateway(open_gateway: OpenGateway, proxy: FaultProxy) -> ResendGateway:
    """A gateway through the proxy, with a short timeout."""
    return await open_gateway(api_url=f"http://{proxy.host}:{proxy.port}", timeout_s=1.0)


async def test_lost_response_is_retryable(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """The same key then gets the id of the email that was accepted once."""
    proxy.drop_replies = True
    with pytest.raises(RetryableError, match="did not answer"):
        await send(gateway, mail(), idempotency_key="k")
    assert len(fake.accepted) == 1
    proxy.drop_replies = False
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


@pytest.mark.parametrize("after", [0, 1, 20, 190])
async def test_truncated_response_is_retryable(
    gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend, after: int
) -> None:
    """The connection breaks before, in and after the response's head; the email was accepted once."""
    proxy.cut_reply_after = after
    with pytest.raises(RetryableError):
        await send(gateway, mail(), idempotency_key="k")
    proxy.cut_reply_after = None
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_reset_of_a_new_connection_is_retryable(
    gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend
) -> None:
    """The provider was processing the request; nothing is sent twice."""
    fake.hold()
    task = asyncio.create_task(send(gateway, mail(), idempotency_key="k"))
    await eventually(lambda: fake.memory.in_progress, "the request is in progress")
    proxy.cut()
    with pytest.raises(RetryableError, match="connection broke"):
        await task
    fake.release()
    await eventually(lambda: fake.accepted, "the email is accepted")
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_reset_of_an_idle_connection_costs_no_attempt(
    gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend
) -> None:
    """The next email uses a new connection."""
    await send(gateway, mail(1), idempotency_key="k1")
    proxy.cut()
    await send(gateway, mail(2), idempotency_key="k2")
    assert len(fake.accepted) == 2
    assert proxy.accepted == 2


async def test_refused_connection_is_retryable(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """The provider is not listening for a while; afterwards the email is sent."""
    await proxy.refuse()
    with pytest.raises(RetryableError, match="no connection to the provider"):
        await send(gateway, mail(), idempotency_key="k")
    await proxy.admit()
    await send(gateway, mail(), idempotency_key="k")
    assert len(fake.accepted) == 1


async def test_frozen_network_ends_with_the_timeout(
    gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend
) -> None:
    """Afterwards the email is accepted once."""
    proxy.freeze()
    with pytest.raises(RetryableError, match="did not answer"):
        await send(gateway, mail(), idempotency_key="k")
    proxy.unfreeze()
    await send(gateway, mail(), idempotency_key="k")
    assert len(fake.accepted) == 1


async def test_slow_network_below_the_timeout_is_no_error(
    gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend
) -> None:
    """Latency alone changes nothing."""
    proxy.latency_s = 0.05
    await asyncio.gather(*(send(gateway, mail(n), idempotency_key=f"k{n}") for n in range(10)))
    assert (len(fake.accepted), fake.duplicates()) == (10, [])


async def test_endless_response_is_cut(gateway: ResendGateway, fake: FakeResend) -> None:
    """A proxy cannot fill our memory; the outcome is unknown."""
    fake.script(Answer(200, b'{"id":"' + b"a" * 5_000_000 + b'"}', {"content-type": "application/json"}))
    with pytest.raises(RetryableError, match="longer than"):
        await send(gateway, mail(), idempotency_key="k")
    assert (await send(gateway, mail(), idempotency_key="k")).provider_id == fake.accepted[0].id


async def test_resets_at_any_moment_are_retryable(gateway: ResendGateway, proxy: FaultProxy, fake: FakeResend) -> None:
    """Kept connections that broke while idle and requests in flight: never another error, and nothing sent twice."""
    done = asyncio.Event()

    async def repeat(key: str) -> None:
        number = 0
        while not done.is_set():
            try:
                await send(gateway, mail(), idempotency_key=f"{key}-{number}")
            except RetryableError:
                continue  # the same key again, as the daemon does
            number += 1

    async def resets() -> None:
        for _ in range(40):
            before = len(fake.accepted)
            await eventually(lambda before=before: len(fake.accepted) > before, "an email")  # type: ignore[misc]
            proxy.cut()
        done.set()

    async with asyncio.TaskGroup() as group:
        for key in "abcd":
            group.create_task(repeat(key))
        group.create_task(resets())
    assert len({mail.key for mail in fake.accepted}) == len(fake.accepted)

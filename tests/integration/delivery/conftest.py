"""A provider on loopback, gateways to it, and mails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendOptions
from flowstate_daemon.mail.message import Accepted, Email
from tests.support.fake_resend import FakeResend

OpenGateway = Callable[..., Awaitable[ResendGateway]]


def mail(number: int = 1, **changes: object) -> Email:
    """A mail like those of the daemon; `changes` replace its fields."""
    fields: dict[str, object] = {
        "kind": "otp",
        "sender": "FlowState <hello@flowstate.dev>",
        "to": f"ada{number}@mail.dev",
        "subject": f"Your code ({number})",
        "html": f"<p>Hello {number}</p>",
        "text": f"Hello {number}",
    }
    return Email(**(fields | changes))  # type: ignore[arg-type]


def composed(gateway: Gateway, *emails: Email) -> tuple[str, bytes]:
    """Path and body of the request for these mails."""
    return gateway.build_request([gateway.encode(email) for email in emails])


async def send(gateway: Gateway, email: Email, *, idempotency_key: str) -> Accepted:
    """Send one mail alone."""
    path, body = composed(gateway, email)
    response = await gateway.send(path, body, idempotency_key, 1)
    [accepted] = response.results
    assert isinstance(accepted, Accepted)
    return accepted


async def until(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Wait for something that is about to happen. Fails with TimeoutError."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def fake() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
async def open_gateway(fake: FakeResend) -> AsyncIterator[OpenGateway]:
    """Opens gateways to the fake, with settings changed at will, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def opened(**changes: object) -> ResendGateway:
            settings = ResendOptions(**({"api_key": fake.api_key, "api_url": fake.url} | changes))  # type: ignore[arg-type]
            gateway = ResendGateway(settings)
            await gateway.open()
            stack.push_async_callback(gateway.close)
            return gateway

        yield opened


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> ResendGateway:
    return await open_gateway()

"""A fake provider on loopback, gateways to it, and emails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendOptions
from flowstate_daemon.mail.message import Accepted, Email
from tests.support.fake_resend import FakeResend

OpenGateway = Callable[..., Awaitable[ResendGateway]]


def mail(number: int = 1, **changes: object) -> Email:
    """An email like those of the daemon; `changes` replace its fields."""
    fields: dict[str, object] = {
        "kind": "otp",
        "sender": "FlowState <hello@flowstate.dev>",
        "to": f"ada{number}@mail.dev",
        "subject": f"Your code ({number})",
        "html": f"<p>Hello {number}</p>",
        "text": f"Hello {number}",
    }
    return Email(**(fields | changes))  # type: ignore[arg-type]


def build_request(gateway: Gateway, *emails: Email) -> tuple[str, bytes]:
    """Path and body of the request for these emails."""
    return gateway.build_request([gateway.encode(email) for email in emails])


async def send(gateway: Gateway, email: Email, *, idempotency_key: str) -> Accepted:
    """Send one email alone."""
    path, body = build_request(gateway, email)
    response = await gateway.send(path, body, idempotency_key, 1)
    [accepted] = response.results
    assert isinstance(accepted, Accepted)
    return accepted


@pytest.fixture
async def fake() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
async def open_gateway(fake: FakeResend) -> AsyncIterator[OpenGateway]:
    """Opens gateways to the fake provider, with changed options, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def open_one(**changes: object) -> ResendGateway:
            options = ResendOptions(**({"api_key": fake.api_key, "api_url": fake.url} | changes))  # type: ignore[arg-type]
            gateway = ResendGateway(options)
            await gateway.open()
            stack.push_async_callback(gateway.close)
            return gateway

        yield open_one


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> ResendGateway:
    return await open_gateway()

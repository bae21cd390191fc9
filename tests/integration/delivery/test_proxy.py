"""The provider behind an HTTP proxy, and what the proxy's own answers mean."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import FlowstateError, ProviderRefusedError, ProviderUnreachableError
from tests.integration.delivery.conftest import OpenGateway, mail, send
from tests.support.fake_resend import FakeResend
from tests.support.http_proxy import HttpProxy


async def test_request_goes_through_the_proxy_with_its_login(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """The provider gets its own key and not the proxy's login."""
    async with HttpProxy(fake.port) as proxy:
        gateway = await open_gateway(
            api_url="http://provider.invalid", proxy_url=f"http://me:secret@127.0.0.1:{proxy.port}"
        )
        accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]
    assert proxy.seen == [("POST http://provider.invalid/emails HTTP/1.1", "Basic bWU6c2VjcmV0")]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (407, ProviderRefusedError),
        (403, ProviderRefusedError),
        (429, ProviderUnreachableError),
        (502, ProviderUnreachableError),
        (503, ProviderUnreachableError),
    ],
)
async def test_proxy_that_does_not_connect_uses_no_attempt(
    open_gateway: OpenGateway, fake: FakeResend, status: int, expected: type[FlowstateError]
) -> None:
    """Its rules refuse every email; and if it does not reach the provider, the request never left."""
    async with HttpProxy(fake.port, connect_status=status) as proxy:
        gateway = await open_gateway(api_url="https://provider.invalid", proxy_url=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(expected, match="HTTPS_PROXY") as caught:
            await send(gateway, mail(), idempotency_key="k")
    assert type(caught.value) is expected
    assert proxy.seen[0][0].startswith("CONNECT provider.invalid:443")


async def test_missing_proxy_and_unknown_host_are_outages_of_this_side(open_gateway: OpenGateway) -> None:
    """Nothing was sent, and no attempt is used."""
    for options in ({"proxy_url": "http://127.0.0.1:1"}, {"api_url": "http://provider.invalid"}):
        with pytest.raises(ProviderUnreachableError):
            await send(await open_gateway(**options), mail(), idempotency_key="k")

"""The official SDK over our transport, against a strict stand-in of the API."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import resend

from flowstate_daemon import __version__
from flowstate_daemon.base.errors import (
    AlreadyAcceptedError,
    FlowstateError,
    PermanentError,
    ProviderRefusedError,
    QuotaExceededError,
    RateLimit,
    RateLimitedError,
    RequestInProgressError,
    RetryableError,
)
from flowstate_daemon.delivery.gateway import Gateway, SendResult
from flowstate_daemon.delivery.resend_gateway import KeyStatus, ResendGateway, ResendOptions
from tests.integration.delivery.conftest import OpenGateway, composed, mail, send, until
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error
from tests.unit.delivery.test_responses import ROWS


async def test_a_mail_arrives_whole(gateway: Gateway, fake: FakeResend) -> None:
    """Every part of a mail, its key and our name reach the provider, and its id comes back."""
    seen: list[ReceivedRequest] = []
    fake.script(Answer(), when=lambda incoming: seen.append(incoming) or True)  # type: ignore[func-returns-value]
    email = mail(headers={"List-Unsubscribe": "<https://flowstate.dev/u>"}, tags={"kind": "otp"})
    accepted = await send(gateway, email, idempotency_key="bull:email:1:1700000000000")
    [arrived] = fake.accepted
    assert (accepted.provider_id, accepted.provider) == (arrived.id, "resend")
    assert arrived.key == "bull:email:1:1700000000000"
    assert arrived.body == {
        "from": "FlowState <hello@flowstate.dev>",
        "to": ["ada1@mail.dev"],
        "subject": "Your code (1)",
        "html": "<p>Hello 1</p>",
        "text": "Hello 1",
        "headers": {"List-Unsubscribe": "<https://flowstate.dev/u>"},
        "tags": [{"name": "kind", "value": "otp"}],
    }
    assert seen[0].headers["user-agent"] == f"flowstate-daemon/{__version__}"
    assert seen[0].headers["content-type"] == "application/json"


async def test_the_same_key_is_the_same_bytes_and_one_mail(gateway: Gateway, fake: FakeResend) -> None:
    """A second send under one key carries the same bytes, gets the same id, and sends nothing."""
    first = await send(gateway, mail(tags={"a": "1", "b": "2"}), idempotency_key="k")
    second = await send(gateway, mail(tags={"a": "1", "b": "2"}), idempotency_key="k")
    assert first == second
    assert (len(fake.accepted), fake.repeated_keys) == (1, 1)


@pytest.mark.parametrize("row", ROWS)
async def test_every_documented_error_passes_the_sdk(
    gateway: Gateway, fake: FakeResend, row: tuple[int, str, str, type[FlowstateError]]
) -> None:
    """The fate of every error of the provider's list comes out of the SDK unflattened, with the words."""
    status, name, word, result = row
    fake.script(error(status, name, "The words."))
    with pytest.raises(FlowstateError) as caught:
        await send(gateway, mail(), idempotency_key="k")
    assert type(caught.value) is result
    assert f"The words. ({status} {name})" in caught.value.reason
    assert caught.value.result == word
    assert fake.accepted == []


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (Answer(200, "<html>Welcome</html>", {"content-type": "text/html"}), RetryableError),
        (Answer(200, "", {"content-type": "application/json"}), RetryableError),
        (Answer(200, '{"id": "a', {"content-type": "application/json"}), RetryableError),
        (Answer(200, {"object": "email"}, {"content-type": "application/json"}), RetryableError),
        (Answer(200, {"data": []}, {"content-type": "application/json"}), RetryableError),
        (Answer(200, {"statusCode": 500, "name": "application_error", "message": "x"}), RetryableError),
        (Answer(502, "<html>Bad gateway</html>", {"content-type": "text/html"}), RetryableError),
        (Answer(503, ""), RetryableError),
        (Answer(429, "slow down", {"content-type": "text/plain", "Retry-After": "3"}), RateLimitedError),
        (Answer(403, "error code: 1010", {"content-type": "text/plain"}), ProviderRefusedError),
        (Answer(302, "", {"Location": "https://elsewhere.invalid/"}), ProviderRefusedError),
        (Answer(404, "<html>nginx</html>", {"content-type": "text/html"}), ProviderRefusedError),
        (Answer(200, {"id": "a"}, cut=True), RetryableError),
        (Answer(500, {"name": "application_error", "message": "x"}, cut=True), RetryableError),
        (Answer(200, drop=True), RetryableError),
    ],
)
async def test_what_is_not_the_api(
    gateway: Gateway, fake: FakeResend, answer: Answer, result: type[FlowstateError]
) -> None:
    """Pages, empty and broken answers, redirects and lost connections have their fates too."""
    fake.script(answer)
    with pytest.raises(result):
        await send(gateway, mail(), idempotency_key="k")
    assert sum(fake.requests.values()) == 1


async def test_throttled_tells_the_wait_whatever_the_header_is_called(gateway: Gateway, fake: FakeResend) -> None:
    """`Retry-After` counts in any spelling."""
    fake.script(Answer(429, "", {"Retry-After": "3"}))
    with pytest.raises(RateLimitedError) as caught:
        await send(gateway, mail(), idempotency_key="k")
    assert caught.value.after_ms == 3_000


async def test_rate_headers_come_with_the_response_and_with_the_error(gateway: Gateway, fake: FakeResend) -> None:
    """An accepted request returns the rate headers; a request over the limit carries them and is not processed."""
    fake.rate.limit = 1
    results = await asyncio.gather(
        *(gateway.send(*composed(gateway, mail(number)), f"k{number}", 1) for number in range(4)),
        return_exceptions=True,
    )
    limited = [result for result in results if isinstance(result, RateLimitedError)]
    accepted = [result for result in results if isinstance(result, SendResult)]
    assert limited
    assert limited[0].after_ms == 1_000
    assert len(fake.accepted) == len(accepted) == 4 - len(limited)
    assert accepted[0].rate_limit == limited[0].rate_limit == RateLimit(limit=1, remaining=0, reset_s=1.0)


async def test_quota_and_unverified_domain_are_no_mails_fault(gateway: Gateway, fake: FakeResend) -> None:
    """An exhausted quota and a foreign sender domain are the account's fault, not the mail's."""
    fake.quotas.daily = 0
    with pytest.raises(QuotaExceededError, match="00:00 UTC"):
        await send(gateway, mail(), idempotency_key="k")
    fake.quotas.daily, fake.verified = None, {"another.dev"}
    with pytest.raises(ProviderRefusedError, match="not verified"):
        await send(gateway, mail(), idempotency_key="k")


@pytest.mark.parametrize(
    "changes",
    [
        {"to": "nobody"},
        {"to": "ada@example.com"},
        {"subject": ""},
        {"tags": {"kind": "é"}},
        {"text": "", "html": ""},
    ],
)
async def test_a_mail_that_the_provider_refuses_is_final(
    gateway: Gateway, fake: FakeResend, changes: dict[str, Any]
) -> None:
    """What the provider's validation refuses never comes again."""
    with pytest.raises(PermanentError, match="422"):
        await send(gateway, mail(**changes), idempotency_key="k")


async def test_half_a_character_is_final_and_local(gateway: Gateway, fake: FakeResend) -> None:
    """A lone surrogate cannot be written as JSON; the mail fails without a request."""
    with pytest.raises(PermanentError, match="surrogate"):
        await send(gateway, mail(subject="\ud800"), idempotency_key="k")
    assert not fake.requests


async def test_another_body_under_the_same_key_is_refused_clearly(gateway: Gateway, fake: FakeResend) -> None:
    """The first mail stands; the second is told that it went before."""
    await send(gateway, mail(), idempotency_key="k")
    with pytest.raises(AlreadyAcceptedError, match="another body"):
        await send(gateway, mail(subject="changed"), idempotency_key="k")
    assert len(fake.accepted) == 1


async def test_an_unreachable_provider(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """Nobody listening is a Retry that names no address; an address that is none closes the lane."""
    await fake.stop()
    with pytest.raises(RetryableError, match="no connection") as unreachable:
        await send(await open_gateway(), mail(), idempotency_key="k")
    with pytest.raises(ProviderRefusedError, match="RESEND_API_URL") as invalid:
        await send(await open_gateway(api_url="not an address"), mail(), idempotency_key="k")
    assert (unreachable.value.result, invalid.value.result) == ("network_error", "refused")


async def test_a_silent_provider_times_out(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """After the timeout the outcome is unknown: Retry, and the same key later finds one mail."""
    gateway = await open_gateway(timeout_s=0.5)
    fake.hold()
    started = time.monotonic()
    with pytest.raises(RetryableError, match=r"within 0\.5 s") as caught:
        await send(gateway, mail(), idempotency_key="k")
    assert caught.value.result == "timeout"
    assert time.monotonic() - started > 0.4
    with pytest.raises(RequestInProgressError, match="concurrent_idempotent_requests"):
        await send(gateway, mail(), idempotency_key="k")
    fake.release()
    await until(lambda: fake.accepted)
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_a_cancelled_send_is_cancelled_and_may_be_repeated(gateway: Gateway, fake: FakeResend) -> None:
    """Cancellation passes the SDK; the mail may have gone, and the same key then finds it, accepted once."""
    fake.hold()
    task = asyncio.create_task(send(gateway, mail(), idempotency_key="k"))
    await until(lambda: fake.memory.under_way)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fake.release()
    await until(lambda: fake.accepted)
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_a_kept_connection_that_died_is_replaced(gateway: Gateway, fake: FakeResend) -> None:
    """A request on a dying connection goes again at once under its key: no attempt is lost."""
    await send(gateway, mail(1), idempotency_key="k1")
    fake.script(Answer(200, drop=True))
    await send(gateway, mail(2), idempotency_key="k2")
    assert [arrived.key for arrived in fake.accepted] == ["k1", "k2"]
    assert fake.connections == 2


async def test_a_reply_lost_with_a_kept_connection_sends_nothing_twice(gateway: Gateway, fake: FakeResend) -> None:
    """The provider had accepted before the kept connection died: the repeat gets the first answer."""
    await send(gateway, mail(1), idempotency_key="k1")
    fake.script(Answer(drop=True))
    accepted = await send(gateway, mail(2), idempotency_key="k2")
    assert [arrived.id for arrived in fake.accepted][1:] == [accepted.provider_id]
    assert (fake.repeated_keys, fake.duplicates()) == (1, [])


async def test_all_kept_connections_may_be_dead_at_once(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """The provider restarts behind idle connections: the next mail still leaves at its first attempt."""
    gateway = await open_gateway(concurrency=5)
    fake.latency_s = 0.05
    await asyncio.gather(*(send(gateway, mail(n), idempotency_key=f"a{n}") for n in range(5)))
    assert fake.connections == 5
    fake.script(*[Answer(200, drop=True)] * 5)
    await send(gateway, mail(9), idempotency_key="b")
    assert len(fake.accepted) == 6


async def test_connections_are_shared(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """Many sends at once use no more connections than `concurrency`, and keep them."""
    gateway = await open_gateway(concurrency=4)
    fake.latency_s = 0.002
    await asyncio.gather(*(send(gateway, mail(number), idempotency_key=f"k{number}") for number in range(60)))
    assert len(fake.accepted) == 60
    assert fake.connections == 4


async def test_gateways_do_not_mix_although_the_sdk_is_global(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """Two gateways with different keys and providers, sending at the same time, each speak for themselves."""
    async with FakeResend() as other:
        other.api_key = "re_Other000_abcdefghijklmnop"
        one, two = await open_gateway(), await open_gateway(api_key=other.api_key, api_url=other.url + "/")
        await asyncio.gather(
            *(send(gateway, mail(n), idempotency_key=f"{n}") for n in range(20) for gateway in (one, two))
        )
        assert (len(fake.accepted), len(other.accepted)) == (20, 20)


async def test_a_closed_gateway_takes_its_key_along(open_gateway: OpenGateway) -> None:
    """After `close` neither key nor client is left in the SDK, and a further send is a bug that shows."""
    gateway = await open_gateway()
    await gateway.close()
    assert (resend.api_key, resend.default_async_http_client) == (None, None)
    await gateway.close()
    with pytest.raises(RetryableError, match="RuntimeError"):
        await send(gateway, mail(), idempotency_key="k")


async def test_the_key_check(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """A full key tells the domains, a sending key is fine, a wrong one is refused, silence is unknown."""
    gateway = await open_gateway()
    fake.verified = {"flowstate.dev"}
    full = await gateway.check()
    assert (full.status, full.usable, full.domains) == (KeyStatus.FULL, True, {"flowstate.dev": "verified"})
    fake.send_only = True
    sending = await gateway.check()
    assert (sending.status, sending.usable) == (KeyStatus.SENDING, True)
    wrong = await (await open_gateway(api_key="re_Wrong")).check()
    assert (wrong.status, wrong.usable) == (KeyStatus.REFUSED, False)
    assert "RESEND_API_KEY" in wrong.reason
    fake.script(Answer(503, ""))
    ill = await gateway.check()
    assert (ill.status, ill.usable) == (KeyStatus.UNKNOWN, False)
    assert fake.accepted == []


def test_settings_hide_the_key() -> None:
    """The key stands in no repr, so in no traceback and no log."""
    settings = ResendOptions(api_key="re_Secret00_x")
    assert "re_Secret" not in repr(settings)
    assert "re_Secret" not in repr(ResendGateway(settings))

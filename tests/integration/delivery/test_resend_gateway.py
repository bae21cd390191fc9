"""The official SDK over our transport, with a strict fake of the API."""

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
from tests.integration.delivery.conftest import OpenGateway, build_request, mail, send
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error
from tests.support.waiting import eventually
from tests.unit.delivery.test_responses import ROWS


async def test_every_part_of_a_mail_reaches_the_provider(gateway: Gateway, fake: FakeResend) -> None:
    """Also its key and our User-Agent; the provider's id is returned."""
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


async def test_same_key_sends_one_mail(gateway: Gateway, fake: FakeResend) -> None:
    """A second request with the key has the same bytes, gets the same id, and sends nothing."""
    first = await send(gateway, mail(tags={"a": "1", "b": "2"}), idempotency_key="k")
    second = await send(gateway, mail(tags={"a": "1", "b": "2"}), idempotency_key="k")
    assert first == second
    assert (len(fake.accepted), fake.repeated_keys) == (1, 1)


@pytest.mark.parametrize("row", ROWS)
async def test_documented_error_comes_through_the_sdk(
    gateway: Gateway, fake: FakeResend, row: tuple[int, str, str, type[FlowstateError]]
) -> None:
    """With its class, its result and the provider's message."""
    status, name, result, error_class = row
    fake.script(error(status, name, "The message."))
    with pytest.raises(FlowstateError) as caught:
        await send(gateway, mail(), idempotency_key="k")
    assert type(caught.value) is error_class
    assert f"The message. ({status} {name})" in caught.value.reason
    assert caught.value.result == result
    assert fake.accepted == []


@pytest.mark.parametrize(
    ("answer", "expected"),
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
async def test_response_that_is_not_from_the_api_is_classified(
    gateway: Gateway, fake: FakeResend, answer: Answer, expected: type[FlowstateError]
) -> None:
    """Pages, empty and incomplete bodies, redirects and lost connections."""
    fake.script(answer)
    with pytest.raises(expected):
        await send(gateway, mail(), idempotency_key="k")
    assert sum(fake.requests.values()) == 1


async def test_retry_after_header_is_case_insensitive(gateway: Gateway, fake: FakeResend) -> None:
    """The wait of a rate limited request is read from `Retry-After`, whatever its letter case."""
    fake.script(Answer(429, "", {"Retry-After": "3"}))
    with pytest.raises(RateLimitedError) as caught:
        await send(gateway, mail(), idempotency_key="k")
    assert caught.value.after_ms == 3_000


async def test_rate_headers_come_with_the_response_and_with_the_error(gateway: Gateway, fake: FakeResend) -> None:
    """An accepted request returns the rate headers; a request over the limit carries them and is not processed."""
    fake.rate.limit = 1
    results = await asyncio.gather(
        *(gateway.send(*build_request(gateway, mail(number)), f"k{number}", 1) for number in range(4)),
        return_exceptions=True,
    )
    limited = [result for result in results if isinstance(result, RateLimitedError)]
    accepted = [result for result in results if isinstance(result, SendResult)]
    assert limited
    assert limited[0].after_ms == 1_000
    assert len(fake.accepted) == len(accepted) == 4 - len(limited)
    assert accepted[0].rate_limit == limited[0].rate_limit == RateLimit(limit=1, remaining=0, reset_s=1.0)


async def test_quota_and_unverified_domain_concern_the_account(gateway: Gateway, fake: FakeResend) -> None:
    """They are not the fault of an email."""
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
        {"text": "", "html": ""},
    ],
)
async def test_mail_rejected_by_validation_is_permanent(
    gateway: Gateway, fake: FakeResend, changes: dict[str, Any]
) -> None:
    """What the provider's validation rejects is never sent again."""
    with pytest.raises(PermanentError, match="422"):
        await send(gateway, mail(**changes), idempotency_key="k")


async def test_lone_surrogate_fails_without_a_request(gateway: Gateway, fake: FakeResend) -> None:
    """It cannot be encoded as JSON."""
    with pytest.raises(PermanentError, match="surrogate"):
        await send(gateway, mail(subject="\ud800"), idempotency_key="k")
    assert not fake.requests


async def test_other_body_with_the_same_key_was_accepted_already(gateway: Gateway, fake: FakeResend) -> None:
    """The first email is sent; the second error says that the key was accepted before."""
    await send(gateway, mail(), idempotency_key="k")
    with pytest.raises(AlreadyAcceptedError, match="another body"):
        await send(gateway, mail(subject="changed"), idempotency_key="k")
    assert len(fake.accepted) == 1


async def test_unreachable_provider_is_retryable(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """The reason contains no address; an invalid address refuses every email."""
    await fake.stop()
    with pytest.raises(RetryableError, match="no connection") as unreachable:
        await send(await open_gateway(), mail(), idempotency_key="k")
    with pytest.raises(ProviderRefusedError, match="RESEND_API_URL") as invalid:
        await send(await open_gateway(api_url="not an address"), mail(), idempotency_key="k")
    assert (unreachable.value.result, invalid.value.result) == ("network_error", "refused")


async def test_silent_provider_times_out(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """The outcome is unknown, and the same key later finds one email."""
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
    await eventually(lambda: fake.accepted, "the email is accepted")
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_cancelled_request_may_be_repeated(gateway: Gateway, fake: FakeResend) -> None:
    """The cancellation passes the SDK; the same key then finds the email, accepted once."""
    fake.hold()
    task = asyncio.create_task(send(gateway, mail(), idempotency_key="k"))
    await eventually(lambda: fake.memory.in_progress, "the request is in progress")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fake.release()
    await eventually(lambda: fake.accepted, "the email is accepted")
    accepted = await send(gateway, mail(), idempotency_key="k")
    assert [arrived.id for arrived in fake.accepted] == [accepted.provider_id]


async def test_dead_kept_connection_is_replaced(gateway: Gateway, fake: FakeResend) -> None:
    """A request on a dying connection is sent again at once with its key: no attempt is lost."""
    await send(gateway, mail(1), idempotency_key="k1")
    fake.script(Answer(200, drop=True))
    await send(gateway, mail(2), idempotency_key="k2")
    assert [arrived.key for arrived in fake.accepted] == ["k1", "k2"]
    assert fake.connections == 2


async def test_response_lost_with_a_kept_connection_sends_nothing_twice(gateway: Gateway, fake: FakeResend) -> None:
    """The provider had accepted before the connection died: the repetition gets the first response."""
    await send(gateway, mail(1), idempotency_key="k1")
    fake.script(Answer(drop=True))
    accepted = await send(gateway, mail(2), idempotency_key="k2")
    assert [arrived.id for arrived in fake.accepted][1:] == [accepted.provider_id]
    assert (fake.repeated_keys, fake.duplicates()) == (1, [])


async def test_all_kept_connections_may_be_dead(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """The provider restarts behind idle connections: the next email is still sent at its first attempt."""
    gateway = await open_gateway(concurrency=5)
    fake.latency_s = 0.05
    await asyncio.gather(*(send(gateway, mail(n), idempotency_key=f"a{n}") for n in range(5)))
    assert fake.connections == 5
    fake.script(*[Answer(200, drop=True)] * 5)
    await send(gateway, mail(9), idempotency_key="b")
    assert len(fake.accepted) == 6


async def test_connections_are_shared_and_kept(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """Many concurrent requests use no more connections than `concurrency`."""
    gateway = await open_gateway(concurrency=4)
    fake.latency_s = 0.002
    await asyncio.gather(*(send(gateway, mail(number), idempotency_key=f"k{number}") for number in range(60)))
    assert len(fake.accepted) == 60
    assert fake.connections == 4


async def test_two_gateways_do_not_share_keys_or_urls(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """Two gateways with different keys and providers, used concurrently, each use their own."""
    async with FakeResend() as other:
        other.api_key = "re_Other000_abcdefghijklmnop"
        first, second = await open_gateway(), await open_gateway(api_key=other.api_key, api_url=other.url + "/")
        await asyncio.gather(
            *(send(gateway, mail(n), idempotency_key=f"{n}") for n in range(20) for gateway in (first, second))
        )
        assert (len(fake.accepted), len(other.accepted)) == (20, 20)


async def test_closed_gateway_removes_its_key(open_gateway: OpenGateway) -> None:
    """After `close` neither key nor client is left in the SDK, and a further request is an error."""
    gateway = await open_gateway()
    await gateway.close()
    assert (resend.api_key, resend.default_async_http_client) == (None, None)
    await gateway.close()
    with pytest.raises(RetryableError, match="RuntimeError"):
        await send(gateway, mail(), idempotency_key="k")


async def test_key_check_reports_the_status(open_gateway: OpenGateway, fake: FakeResend) -> None:
    """A full key lists the domains, a sending key is valid, an invalid one is refused, no response is unknown."""
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
    failing = await gateway.check()
    assert (failing.status, failing.usable) == (KeyStatus.UNKNOWN, False)
    assert fake.accepted == []


def test_repr_hides_the_key() -> None:
    """So no traceback and no log event contains it."""
    settings = ResendOptions(api_key="re_Secret00_x")
    assert "re_Secret" not in repr(settings)
    assert "re_Secret" not in repr(ResendGateway(settings))

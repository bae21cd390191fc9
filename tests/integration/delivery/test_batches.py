"""Batches through the official SDK: exact bytes, permissive responses and rejections of a whole batch."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import PermanentError, RateLimitedError, RetryableError
from flowstate_daemon.delivery.gateway import BATCH_PATH, MAX_BATCHED_MAIL_SIZE, SINGLE_PATH, Rejected
from flowstate_daemon.delivery.resend_gateway import ResendGateway
from flowstate_daemon.mail.message import Accepted
from tests.integration.delivery.conftest import build_request, mail
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_request_is_sent_as_exactly_the_built_bytes(gateway: ResendGateway, fake: FakeResend, count: int) -> None:
    """The bytes go to the endpoint of their path with their key; ids come back in order."""
    seen: list[ReceivedRequest] = []
    fake.script(Answer(), when=lambda incoming: seen.append(incoming) or True)  # type: ignore[func-returns-value]
    path, body = build_request(gateway, *(mail(number) for number in range(count)))
    assert path == (SINGLE_PATH if count == 1 else BATCH_PATH)
    response = await gateway.send(path, body, "k", count)
    assert (seen[0].path, seen[0].body, seen[0].key) == (path, body, "k")
    assert [mail.to[0] for mail in fake.accepted] == [f"ada{number}@mail.dev" for number in range(count)]
    assert response.results == tuple(Accepted(accepted.id, "resend") for accepted in fake.accepted)


async def test_same_mails_give_the_same_bytes(gateway: ResendGateway) -> None:
    """Building the request twice makes no difference."""
    mails = [mail(number, tags={"a": "1"}, headers={"X-A": "b"}) for number in range(3)]
    assert build_request(gateway, *mails) == build_request(gateway, *mails)


async def test_partial_rejection_returns_the_rejected_mails(gateway: ResendGateway, fake: FakeResend) -> None:
    """Rejections have a reason without the address; the other emails are sent."""
    mails = [mail(0), mail(1, to="nobody"), mail(2), mail(3, to="eve@example.com")]
    results = (await gateway.send(*build_request(gateway, *mails), "k", 4)).results
    assert [isinstance(result, Rejected) for result in results] == [False, True, False, True]
    assert [accepted.to[0] for accepted in fake.accepted] == ["ada0@mail.dev", "ada2@mail.dev"]
    assert all("nobody" not in result.reason for result in results if isinstance(result, Rejected))


async def test_strict_provider_rejects_the_whole_batch(gateway: ResendGateway, fake: FakeResend) -> None:
    """Without the permissive option, one invalid email makes the provider reject the batch, and nothing is sent."""
    fake.permissive_known = False
    with pytest.raises(PermanentError, match="422"):
        await gateway.send(*build_request(gateway, mail(0), mail(1, to="nobody")), "k", 2)
    assert fake.accepted == []


@pytest.mark.parametrize("body", [{"data": [{"id": "a"}]}, {"data": []}, {"id": "a"}])
async def test_response_that_does_not_fit_is_retryable(
    gateway: ResendGateway, fake: FakeResend, body: dict[str, object]
) -> None:
    """With too few ids it is unknown which email was accepted, so the same bytes are sent again later."""
    fake.script(Answer(200, body, {"content-type": "application/json"}))
    with pytest.raises(RetryableError, match="2 emails"):
        await gateway.send(*build_request(gateway, mail(0), mail(1)), "k", 2)


async def test_rate_limited_batch_is_sent_again_with_its_key(gateway: ResendGateway, fake: FakeResend) -> None:
    """A request with status 429 was not processed; repeated with its key it is accepted once."""
    fake.script(error(429, "rate_limit_exceeded", retry_after="2"))
    path, body = build_request(gateway, mail(0), mail(1))
    with pytest.raises(RateLimitedError):
        await gateway.send(path, body, "k", 2)
    await gateway.send(path, body, "k", 2)
    await gateway.send(path, body, "k", 2)
    assert (len(fake.accepted), fake.repeated_keys) == (2, 1)


async def test_large_mail_cannot_be_batched(gateway: ResendGateway) -> None:
    """An email that would make a batch too large is not put into one."""
    assert gateway.can_batch(mail())
    assert not gateway.can_batch(mail(html="x" * MAX_BATCHED_MAIL_SIZE))

"""Batches through the official SDK: the sealed bytes, permissive answers and refusals as a whole."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import PermanentError, RateLimitedError, RetryableError
from flowstate_daemon.delivery.gateway import BATCH_PATH, MAX_BATCHED_MAIL_SIZE, SINGLE_PATH, Rejected
from flowstate_daemon.delivery.resend_gateway import ResendGateway
from flowstate_daemon.mail.message import Accepted
from tests.integration.delivery.conftest import composed, mail
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_exactly_the_composed_bytes_are_sent(gateway: ResendGateway, fake: FakeResend, count: int) -> None:
    """What was sealed is what travels, to the endpoint of its path, under its key; ids come back in order."""
    seen: list[ReceivedRequest] = []
    fake.script(Answer(), when=lambda incoming: seen.append(incoming) or True)  # type: ignore[func-returns-value]
    path, body = composed(gateway, *(mail(number) for number in range(count)))
    assert path == (SINGLE_PATH if count == 1 else BATCH_PATH)
    delivery = await gateway.send(path, body, "k", count)
    assert (seen[0].path, seen[0].body, seen[0].key) == (path, body, "k")
    assert [mail.to[0] for mail in fake.accepted] == [f"ada{number}@mail.dev" for number in range(count)]
    assert delivery.results == tuple(Accepted(accepted.id, "resend") for accepted in fake.accepted)


async def test_the_same_mails_are_the_same_bytes(gateway: ResendGateway) -> None:
    """Composing twice makes no difference."""
    mails = [mail(number, tags={"a": "1"}, headers={"X-A": "b"}) for number in range(3)]
    assert composed(gateway, *mails) == composed(gateway, *mails)


async def test_a_partial_refusal_names_the_refused(gateway: ResendGateway, fake: FakeResend) -> None:
    """The refused are told why, without their addresses; the others are sent."""
    mails = [mail(0), mail(1, to="nobody"), mail(2), mail(3, to="eve@example.com")]
    results = (await gateway.send(*composed(gateway, *mails), "k", 4)).results
    assert [isinstance(result, Rejected) for result in results] == [False, True, False, True]
    assert [accepted.to[0] for accepted in fake.accepted] == ["ada0@mail.dev", "ada2@mail.dev"]
    assert all("nobody" not in result.reason for result in results if isinstance(result, Rejected))


async def test_a_strict_provider_refuses_the_whole(gateway: ResendGateway, fake: FakeResend) -> None:
    """Where the permissive option is unknown, one bad mail is the end of its batch, and nothing was sent."""
    fake.permissive_known = False
    with pytest.raises(PermanentError, match="422"):
        await gateway.send(*composed(gateway, mail(0), mail(1, to="nobody")), "k", 2)
    assert fake.accepted == []


@pytest.mark.parametrize("body", [{"data": [{"id": "a"}]}, {"data": []}, {"id": "a"}])
async def test_an_answer_that_does_not_fit_decides_nothing(
    gateway: ResendGateway, fake: FakeResend, body: dict[str, object]
) -> None:
    """Too few ids for the mails: nobody knows who was accepted, so the same bytes go again later."""
    fake.script(Answer(200, body, {"content-type": "application/json"}))
    with pytest.raises(RetryableError, match="2 emails"):
        await gateway.send(*composed(gateway, mail(0), mail(1)), "k", 2)


async def test_a_throttled_batch_goes_again_under_its_key(gateway: ResendGateway, fake: FakeResend) -> None:
    """A 429 was not processed; the same request later is accepted once."""
    fake.script(error(429, "rate_limit_exceeded", retry_after="2"))
    path, body = composed(gateway, mail(0), mail(1))
    with pytest.raises(RateLimitedError):
        await gateway.send(path, body, "k", 2)
    await gateway.send(path, body, "k", 2)
    await gateway.send(path, body, "k", 2)
    assert (len(fake.accepted), fake.repeated_keys) == (2, 1)


async def test_giants_travel_alone(gateway: ResendGateway) -> None:
    """A mail that would make batches too long to carry is not put into one."""
    assert gateway.can_batch(mail())
    assert not gateway.can_batch(mail(html="x" * MAX_BATCHED_MAIL_SIZE))

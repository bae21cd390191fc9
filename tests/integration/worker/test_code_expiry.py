"""An expired code is never sent late, however long its request had to wait."""

from __future__ import annotations

from flowstate_daemon.base.errors import MailExpired, RetryableError
from flowstate_daemon.mail.message import Accepted
from tests.support.dispatcher_harness import CODE, DispatcherHarness, wait_for_results
from tests.support.fake_resend import Answer, FakeResend, error

SLOW = error(429, "rate_limit_exceeded", retry_after="1")
LIFETIME_MS = 500


async def test_code_that_expires_while_rate_limited_is_not_sent(harness: DispatcherHarness, fake: FakeResend) -> None:
    """It costs no further request."""
    fake.script(SLOW)
    [code] = await harness.jobs(1, CODE)
    [result] = await wait_for_results([harness.post(code, expires_at=harness.clock.now_ms() + LIFETIME_MS)])
    assert isinstance(result, MailExpired)
    assert (fake.accepted, fake.requests.total()) == ([], 1)


async def test_other_mails_of_the_request_are_sent_without_the_expired_code(
    harness: DispatcherHarness, fake: FakeResend
) -> None:
    """Their request was certainly not processed: it is made anew, without the code."""
    fake.script(SLOW)
    late, other = await harness.jobs(2, CODE)
    results = await wait_for_results(
        [harness.post(late, expires_at=harness.clock.now_ms() + LIFETIME_MS), harness.post(other)]
    )
    assert isinstance(results[0], MailExpired)
    assert isinstance(results[1], Accepted)
    assert [accepted.to[0] for accepted in fake.accepted] == [f"person{other.id}@mail.dev"]


async def test_request_with_unknown_outcome_is_sent_with_the_expired_code(
    harness: DispatcherHarness, fake: FakeResend
) -> None:
    """It may have been accepted with the code in it; other bytes could send the other emails twice."""
    fake.script(Answer(503, accept=True))
    jobs = await harness.jobs(2, CODE)
    assert {type(result) for result in await wait_for_results([harness.post(job) for job in jobs])} == {RetryableError}
    late, other = await harness.released(jobs)
    fake.script(SLOW)
    tasks = [harness.post(late, expires_at=harness.clock.now_ms() + LIFETIME_MS), harness.post(other)]
    assert {type(result) for result in await wait_for_results(tasks)} == {Accepted}
    assert len(fake.accepted) == 2

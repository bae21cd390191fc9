"""No two codes for one address in one request: the newest supersedes."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import MailSkipped
from flowstate_daemon.mail.message import Accepted
from tests.support.dispatcher_harness import CODE, DispatcherHarness, wait_for_results
from tests.support.fake_resend import FakeResend

OTP = {"kind": "otp", "to": "ada@mail.dev", "has_code": True}


async def results_of(harness: DispatcherHarness, fake: FakeResend, *changes: dict[str, str]) -> list[type]:
    """Emails that are grouped into one request, because another request is in flight when they arrive."""
    fake.rate.limit = None
    jobs = await harness.jobs(len(changes), CODE)
    tasks = [harness.post(job, **change) for job, change in zip(jobs, changes, strict=True)]
    return [type(result) for result in await wait_for_results(tasks)]


@pytest.mark.parametrize("spelling", ["ada@mail.dev", "ADA@mail.dev", "ada@MAIL.dev"])
async def test_newest_code_of_an_address_supersedes(
    harness: DispatcherHarness, fake: FakeResend, spelling: str
) -> None:
    """The older ones are skipped with that reason, whatever the capitals."""
    assert await results_of(harness, fake, OTP, OTP, {**OTP, "to": spelling}) == [MailSkipped, MailSkipped, Accepted]
    assert [accepted.to for accepted in fake.accepted] == [(spelling,)]


async def test_order_of_arrival_does_not_decide(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The job that was added last is the newest, also if an older one comes back after a retry."""
    old, new = await harness.jobs(2, CODE)
    results = await wait_for_results([harness.post(new, **OTP), harness.post(old, **OTP)])
    assert [type(result) for result in results] == [Accepted, MailSkipped]


async def test_other_addresses_kinds_and_emails_are_not_superseded(
    harness: DispatcherHarness, fake: FakeResend
) -> None:
    """A code to log in does not replace one to reset a password, and only codes replace each other."""
    changes = [
        OTP,
        {**OTP, "kind": "password-reset"},
        {**OTP, "to": "ben@mail.dev"},
        {**OTP, "kind": "welcome", "has_code": False},
        {**OTP, "kind": "welcome", "has_code": False},
        {**OTP, "kind": "unknown-kind", "has_code": False},
    ]
    assert await results_of(harness, fake, *changes) == [Accepted] * len(changes)

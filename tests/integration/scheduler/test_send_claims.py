"""Claims on scheduled emails, as workers request them."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.errors import MailSkipped
from flowstate_daemon.worker.lookups import ScheduledMailGuard
from tests.support.scheduler import SchedulerHarness


@pytest.mark.parametrize(
    "job_id", ["scheduled.\0", "scheduled.\ufffd", "scheduled.", "scheduled.task-reminder.20260302.x"]
)
async def test_unknown_job_id_gets_no_claim(harness: SchedulerHarness, job_id: str) -> None:
    """A producer may choose any job id, also one that Postgres cannot store; no job waits for ever."""
    mail_guard = ScheduledMailGuard(harness.scheduler.scheduled_mails)
    async with asyncio.timeout(5):
        with pytest.raises(MailSkipped, match="no such scheduled email"):
            await mail_guard.check(job_id)
    await mail_guard.close()

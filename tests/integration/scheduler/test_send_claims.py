"""Leave to send, as the engine asks for it."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.errors import MailSkipped
from flowstate_daemon.worker.lookups import ScheduledMailGuard
from tests.support.scheduler import SchedulerHarness


@pytest.mark.parametrize(
    "job_id", ["scheduled.\0", "scheduled.\ufffd", "scheduled.", "scheduled.task-reminder.20260302.x"]
)
async def test_a_job_that_only_sounds_like_a_slot_s_gets_no_leave(stage: SchedulerHarness, job_id: str) -> None:
    """A producer may call a job what it likes, also what Postgres does not take; nobody waits for ever for it."""
    mail_guard = ScheduledMailGuard(stage.scheduler.scheduled_mails)
    async with asyncio.timeout(5):
        with pytest.raises(MailSkipped, match="no such scheduled email"):
            await mail_guard.check(job_id)
    await mail_guard.close()

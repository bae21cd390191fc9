"""Leave to send, as the engine asks for it."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.errors import Skip
from flowstate_daemon.work.leaves import Leaves
from tests.support.calendar import Stage


@pytest.mark.parametrize("job_id", ["notice.\0", "notice.\ufffd", "notice.", "notice.task-reminder.20260302.x"])
async def test_a_job_that_only_sounds_like_a_slot_s_gets_no_leave(stage: Stage, job_id: str) -> None:
    """A producer may call a job what it likes, also what Postgres does not take; nobody waits for ever for it."""
    leaves = Leaves(stage.calendar.notices)
    async with asyncio.timeout(5):
        with pytest.raises(Skip, match="no such slot"):
            await leaves.take(job_id)
    await leaves.close()

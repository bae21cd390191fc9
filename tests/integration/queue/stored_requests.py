"""Stored requests for tests."""

from __future__ import annotations

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job
from flowstate_daemon.sending.stored_request import StoredRequest
from tests.integration.queue.queue_fixture import QueueFixture

BODY = '[{"to":"a"},{"to":"é"}]'.encode()


async def take(stage: QueueFixture, bull: BullQueue, *job_ids: str, opts: str = "{}") -> list[Job]:
    for job_id in job_ids:
        await stage.put(job_id, "wait", opts=opts)
    return await bull.claim(len(job_ids))


def template(jobs: list[Job], eid: str = "e1", body: bytes = BODY) -> StoredRequest:
    return StoredRequest(eid, "/emails/batch", body, "key-1", tuple((job.id, job.timestamp) for job in jobs))


async def left(stage: QueueFixture, eid: str = "e1") -> str | None:
    return await stage.redis.hget(stage.keys.own(f"request:{eid}"), "left")


async def bound(stage: QueueFixture, *job_ids: str) -> list[str | None]:
    return [await stage.redis.hget(stage.keys.job(job_id), "storedRequest") for job_id in job_ids]

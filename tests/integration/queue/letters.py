"""Sealed requests for tests, and what became of them."""

from __future__ import annotations

from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.envelopes import Envelope
from flowstate_daemon.queue.job import Job
from tests.integration.queue.stage import Stage

BODY = '[{"to":"a"},{"to":"é"}]'.encode()


async def take(stage: Stage, bull: Bull, *job_ids: str, opts: str = "{}") -> list[Job]:
    for job_id in job_ids:
        await stage.put(job_id, "wait", opts=opts)
    return await bull.take(len(job_ids))


def letter(jobs: list[Job], eid: str = "e1", body: bytes = BODY) -> Envelope:
    return Envelope(eid, "/emails/batch", body, "key-1", tuple((job.id, job.timestamp) for job in jobs))


async def left(stage: Stage, eid: str = "e1") -> str | None:
    return await stage.redis.hget(stage.keys.ours(f"envelope:{eid}"), "left")


async def bound(stage: Stage, *job_ids: str) -> list[str | None]:
    return [await stage.redis.hget(stage.keys.job(job_id), "envelope") for job_id in job_ids]

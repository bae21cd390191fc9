"""One job's way: read, render, out through the gateway. Called by the pool; knows nothing of Redis."""

from __future__ import annotations

import hashlib
from typing import Any

from flowstate_daemon.base.errors import Final, LaneClosed, Throttled
from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.mail.catalogue import read_request
from flowstate_daemon.mail.message import Accepted, Email, masked
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.queue.job import Job
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.work.inflight import Run
from flowstate_daemon.work.lane import Lane

LONGEST_KEY = 256  # Resend's limit for an idempotency key


def idempotency_key(keys: Keys, job: Job) -> str:
    """The same for every try of a job, and for no other job.

    Bull's counter restarts after `obliterate`, so the id needs the job's timestamp beside it.
    """
    key = f"{keys.base}{job.id}:{job.timestamp}"
    if len(key) <= LONGEST_KEY and key.isascii() and key.isprintable():
        return key
    return f"{job.timestamp}:{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()}"


class Sender:
    """Turns a job into a mail and hands it to the provider."""

    def __init__(self, keys: Keys, renderer: Renderer, gateway: Gateway, lane: Lane) -> None:
        self._keys = keys
        self._renderer = renderer
        self._gateway = gateway
        self._lane = lane

    async def perform(self, run: Run) -> dict[str, Any]:
        """Send one job's mail; the result becomes the job's return value. Raises FlowstateError by fate."""
        job = run.job
        request = read_request(job.name, job.data)
        run.facts["to"] = masked(request.to)
        email = self._renderer.render(request)
        accepted = await self._post(email, idempotency_key(self._keys, job))
        run.facts["provider_id"] = accepted.provider_id
        return {"id": accepted.provider_id, "provider": accepted.provider}

    async def _post(self, email: Email, key: str) -> Accepted:
        """Go through the lane until the provider has answered for this mail, one way or the other."""
        while True:
            await self._lane.passage()
            try:
                accepted = await self._gateway.send(email, idempotency_key=key)
            except Throttled as throttled:
                self._lane.slow(throttled.after_ms)
            except LaneClosed as closed:
                self._lane.close(closed.reason)
            except Final:
                self._lane.accepted()  # this mail is refused, so the account is not
                raise
            except BaseException:
                self._lane.unused()
                raise
            else:
                self._lane.accepted()
                return accepted

"""The newest stored requests of this process, for a Redis that loses its newest writes.

A request whose outcome is unknown is kept with its bytes, so that the same bytes can be sent again. Of the others only
the results are kept. Bounded: the oldest are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from flowstate_daemon.sending.stored_request import JobRef, StoredRequest

MAX_MAILS = 20_000  # about five megabytes; at two thousand emails a second the last ten seconds
MAX_BODY_BYTES = 32 * 1024 * 1024  # compressed, of requests whose outcome is unknown


@dataclass(frozen=True, slots=True)
class RecentRequest:
    """A stored request without its body, and the body as it is stored: compressed; empty once there is a response."""

    request: StoredRequest
    body: bytes


class RecentRequests:
    """Requests by id, and by the jobs that they contain."""

    def __init__(self, *, max_mails: int = MAX_MAILS, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_mails = max_mails
        self._max_body_bytes = max_body_bytes
        self._requests: OrderedDict[str, RecentRequest] = OrderedDict()
        self._by_job: dict[JobRef, tuple[str, int]] = {}
        self._mails = 0
        self._body_bytes = 0

    def add(self, request: StoredRequest, body: bytes) -> None:
        """Remember a request that is about to be sent."""
        self._remove(request.id)
        self._requests[request.id] = RecentRequest(replace(request, body=b""), body)
        self._mails += len(request.members)
        self._body_bytes += len(body)
        for job, number in zip(request.members, request.numbers, strict=True):
            self._by_job[job] = request.id, number
        while len(self._requests) > 1 and (self._mails > self._max_mails or self._body_bytes > self._max_body_bytes):
            self._remove(next(iter(self._requests)))

    def settle(self, request_id: str, response: bytes) -> None:
        """The results of a request are known: its bytes are needed no more."""
        found = self._requests.get(request_id)
        if found is not None:
            self._body_bytes -= len(found.body)
            self._requests[request_id] = RecentRequest(replace(found.request, response=response), b"")

    def forget(self, request_id: str, job_ids: set[str]) -> None:
        """These jobs were certainly not sent with this request."""
        found = self._requests.get(request_id)
        members = () if found is None else found.request.members
        for job in members:
            if job[0] in job_ids and self._by_job.get(job, ("",))[0] == request_id:
                del self._by_job[job]
        if not any(self._by_job.get(job, ("",))[0] == request_id for job in members):
            self._remove(request_id)

    def find(self, job: JobRef) -> tuple[str, int] | None:
        """The id of the latest request with this job, and the request's number."""
        return self._by_job.get(job)

    def get(self, request_id: str) -> RecentRequest | None:
        return self._requests.get(request_id)

    def _remove(self, request_id: str) -> None:
        found = self._requests.pop(request_id, None)
        if found is None:
            return
        self._mails -= len(found.request.members)
        self._body_bytes -= len(found.body)
        for job in found.request.members:
            if self._by_job.get(job, ("",))[0] == request_id:
                del self._by_job[job]

"""Stored requests: the exact bytes and the idempotency key of a request, saved in Redis before it is sent.

Every later try, here or in another process, loads the request and sends the same bytes with the same key, so that the
provider recognizes a repetition. `complete.lua` and `fail.lua` delete it when its last member is settled. The newest
requests of this process are kept in memory too, because Redis may lose its newest writes.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import msgspec
import structlog
from isal import isal_zlib

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.job import Job
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts
from flowstate_daemon.sending.batch import decode_results
from flowstate_daemon.sending.recent_requests import RecentRequests
from flowstate_daemon.sending.stored_request import JobRef, StoredRequest

log = structlog.get_logger()

# The provider remembers a key for 24 h: a request loaded at the last moment must still arrive in that time.
TTL_MS = 23 * 3_600_000
# More than this would occupy the event loop for half a millisecond, and for a few if the data hardly shrinks.
COMPRESS_OFF_THREAD_BYTES = 1_500_000
DECOMPRESS_OFF_THREAD_BYTES = 16_384
COMPRESSION_LEVEL = 0  # of isal, not "stored" as in zlib; 1 and 2 are not smaller, 3 takes ten times as long
MAX_JOBS = 100
FIELDS = ("path", "body", "key", "members", "saved_at", "response", "numbers")


class RequestStore:
    """The stored requests of one queue, for the worker `token`. Every call raises StoreUnavailableError."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, token: str) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._token = token
        self._scripts = Scripts(connection)
        self.recent = RecentRequests()

    async def save(
        self, stored_request: StoredRequest, detached_from: Mapping[JobRef, Sequence[str]] | None = None
    ) -> set[str]:
        """Save the request and bind its jobs to it.

        `detached_from` are the requests that the caller has taken its jobs out of, which Redis may have lost.
        Returns the ids of jobs that this worker does not own any more, or that are in another request; if there is one,
        nothing was written.
        """
        members = stored_request.members
        if not 1 <= len(members) <= MAX_JOBS:
            raise ValueError(f"save between 1 and {MAX_JOBS} jobs in one request, not {len(members)}")
        numbers = stored_request.numbers or (1,) * len(members)
        body = await _compress(stored_request.body)
        args: list[str | bytes | float] = [
            self._token,
            stored_request.id,
            body,
            stored_request.key,
            stored_request.path,
            msgspec.json.encode(members),
            self._clock.now_ms(),
            TTL_MS,
            msgspec.json.encode(numbers),
        ]
        for member, number in zip(members, numbers, strict=True):
            args += (member[1], number, " ".join((detached_from or {}).get(member, ())))
        keys = self._member_keys(stored_request.id, [job_id for job_id, _ in members])
        refused = await self._scripts.run("request_save", keys, args)
        if not refused:
            self.recent.add(replace(stored_request, numbers=numbers), body)
        return {members[position - 1][0] for position in refused}

    async def load(self, stored_request_id: str) -> StoredRequest | None:
        """The stored request in Redis; None if it has expired, is settled, or cannot be read."""
        path, body, key, members, saved_at, response, numbers = await self._connection.execute(
            "HMGET", self._key(stored_request_id), *FIELDS
        )
        if body is None:
            return None
        try:
            refs = msgspec.json.decode(members, type=tuple[JobRef, ...])
            if response is not None and not _is_readable(response, len(refs)):
                log.warning(
                    "stored_response_unreadable",
                    stored_request=stored_request_id,
                    remedy="none: the same request is sent again with its key",
                )
                response = None
            return StoredRequest(
                stored_request_id, path.decode(), await _decompress(body), key.decode(), refs, response, int(saved_at),
                msgspec.json.decode(numbers or b"[]", type=tuple[int, ...]),
            )  # fmt: skip
        except (zlib.error, ValueError, TypeError, AttributeError):  # something else changed it
            log.exception(
                "stored_request_unreadable",
                stored_request=stored_request_id,
                remedy="its jobs are parked: look up at the provider what was sent",
            )
            return None

    async def find(self, stored_request_id: str) -> StoredRequest | None:
        """The stored request in Redis or, if Redis has lost it, in the memory of this process.

        A response that only Redis has lost comes from that memory too.
        """
        stored_request = await self.load(stored_request_id)
        found = self.recent.get(stored_request_id)
        if found is None:
            return stored_request
        if stored_request is None:
            return replace(found.request, body=await _decompress(found.body) if found.body else b"")
        return replace(stored_request, response=stored_request.response or found.request.response)

    async def remember(self, stored_request: StoredRequest) -> None:
        """Keep a request that another process made in memory too: this one is about to send it."""
        if self.recent.get(stored_request.id) is None:
            self.recent.add(stored_request, await _compress(stored_request.body))

    async def save_response(self, stored_request_id: str, response: bytes) -> bool:
        """Keep the results for members that are settled later; False if the stored request does not exist any more."""
        return bool(await self._scripts.run("request_save_response", [self._key(stored_request_id)], [response]))

    async def detach(self, stored_request_id: str, job_ids: Sequence[str], aborted: Container[str] = ()) -> bool:
        """Unbind jobs from the request. False, and nothing is written, if this worker does not own all of them.

        Nor if one whose run was `aborted` is still bound: this worker may have claimed it again, with the request.
        """
        if not job_ids:
            return True
        keys = self._member_keys(stored_request_id, job_ids)
        flags = [int(job_id in aborted) for job_id in job_ids]
        detached = bool(await self._scripts.run("request_detach", keys, [self._token, stored_request_id, *flags]))
        if detached:
            self.recent.forget(stored_request_id, set(job_ids))
        return detached

    async def withdraw(self, stored_request: StoredRequest, numbers: Mapping[JobRef, int]) -> set[str] | None:
        """Delete a request that this worker is not going to send; from then on `is_withdrawn` is true.

        `numbers`, of the members that the caller has not lost, are how many other requests have contained them.
        Returns the ids of the jobs that this worker does not own any more; None,
        and the request is kept, if one of those refers to it: its worker may send the request.
        """
        members = stored_request.members
        keys = self._member_keys(stored_request.id, [job_id for job_id, _ in members])
        keys.insert(1, self._withdrawn_key(stored_request.id))
        args: list[str | float] = [self._token, stored_request.id, TTL_MS]
        args += [numbers.get(member, "") for member in members]
        withdrawn, *lost = await self._scripts.run("request_withdraw", keys, args)
        if not withdrawn:
            return None
        self.recent.forget(stored_request.id, {job_id for job_id, _ in members})
        return {members[position - 1][0] for position in lost}

    async def is_withdrawn(self, stored_request_id: str) -> bool:
        """Whether the worker that made the request has not sent it. Another one may have resumed it."""
        return bool(await self._connection.execute("EXISTS", self._withdrawn_key(stored_request_id)))

    async def find_lost(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these jobs that this worker does not own any more."""
        if not job_ids:
            return set()
        holders = await self._connection.execute("MGET", *(self._keys.lock(job_id) for job_id in job_ids))
        token = self._token.encode()
        return {job_id for job_id, holder in zip(job_ids, holders, strict=True) if holder != token}

    async def adopt(self, stored_request: StoredRequest, job: Job, number: int) -> bool:
        """Bind a job again to a request that Redis has lost; the request is stored again too if it is missing.

        False, and nothing is written, if this worker does not own the job.
        """
        ttl_ms = TTL_MS - (self._clock.now_ms() - stored_request.saved_at)
        args = (
            self._token, stored_request.id, await _compress(stored_request.body), stored_request.key,
            stored_request.path, msgspec.json.encode(stored_request.members), stored_request.saved_at, max(ttl_ms, 1),
            msgspec.json.encode(stored_request.numbers), number,
        )  # fmt: skip
        return bool(await self._scripts.run("request_adopt", self._member_keys(stored_request.id, [job.id]), args))

    def _withdrawn_key(self, stored_request_id: str) -> str:
        return self._keys.own(f"withdrawn:{stored_request_id}")

    def _key(self, stored_request_id: str) -> str:
        return self._keys.own(f"request:{stored_request_id}")

    def _member_keys(self, stored_request_id: str, job_ids: Sequence[str]) -> list[str]:
        keys = [self._key(stored_request_id)]
        for job_id in job_ids:
            keys += (self._keys.job(job_id), self._keys.lock(job_id))
        return keys


def _is_readable(response: bytes, count: int) -> bool:
    """Whether the response has a result for each of `count` emails; a later version may have written it."""
    try:
        return len(decode_results(response)) == count
    except (ValueError, TypeError):
        return False


async def _compress(body: bytes) -> bytes:
    if len(body) <= COMPRESS_OFF_THREAD_BYTES:
        return isal_zlib.compress(body, COMPRESSION_LEVEL)
    return await asyncio.to_thread(isal_zlib.compress, body, COMPRESSION_LEVEL)


async def _decompress(body: bytes) -> bytes:
    """Raises zlib.error."""
    if len(body) <= DECOMPRESS_OFF_THREAD_BYTES:
        return zlib.decompress(body)
    return await asyncio.to_thread(zlib.decompress, body)

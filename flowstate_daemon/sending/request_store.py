"""Sealed requests: the exact bytes and the key of a request, written down before its first try.

The bus seals; every later try, here or in another process, opens the envelope and sends the same bytes under the same
key, so that the provider can tell a repetition. `complete.lua` and `fail.lua` count the members down.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

log = structlog.get_logger()

# The provider knows a key for 24 h: what was opened at the last moment must still get there in that time.
TTL_MS = 23 * 3_600_000
COMPRESS_OFF_THREAD_BYTES = 16_384  # bytes; compressing more than this on the loop would hold up a one-time code
ZLIB_LEVEL = 1  # five times as fast as zlib's default, and half a megabyte of mails still shrinks to a tenth
MAX_JOBS = 100
FIELDS = ("path", "body", "key", "members", "saved_at", "response")

JobRef = tuple[str, int]


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A sealed request. `members` are id and timestamp of its jobs, in body order.

    `answer` is the provider's, where it is known; `sealed_at`, Unix ms, is set by those who opened it.
    """

    id: str
    path: str
    body: bytes = field(repr=False)
    key: str
    members: tuple[JobRef, ...]
    response: bytes | None = None
    saved_at: int = 0


class RequestStore:
    """The sealed requests of one queue, in the hands of the worker `token`; every call raises Outage."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        clock: Clock,
        *,
        token: str,
        on_stored: Callable[[int], None] = lambda _mails: None,
    ) -> None:
        """`on_sealed` hears how many mails each sealed request holds."""
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._token = token
        self._on_stored = on_stored
        self._scripts = Scripts(connection)

    async def save(self, stored_request: StoredRequest) -> set[str]:
        """Write it down and bind its members to it.

        Returns the ids that are not ours any more; if there is one, nothing was written.
        """
        members = stored_request.members
        if not 1 <= len(members) <= MAX_JOBS:
            raise ValueError(f"save between 1 and {MAX_JOBS} jobs in one request, not {len(members)}")
        args = (
            self._token,
            stored_request.id,
            await _on_thread(stored_request.body, _compress),
            stored_request.key,
            stored_request.path,
            msgspec.json.encode(members),
            self._clock.now_ms(),
            TTL_MS,
        )
        keys = self._member_keys(stored_request.id, [job_id for job_id, _ in members])
        lost = await self._scripts.run("request_save", keys, [*args, *(timestamp for _, timestamp in members)])
        if not lost:
            self._on_stored(len(members))
        return {members[position - 1][0] for position in lost}

    async def load(self, stored_request_id: str) -> StoredRequest | None:
        """What was sealed; None when it has run out, was settled, or cannot be read."""
        path, body, key, members, stored_at, answer = await self._connection.execute(
            "HMGET", self._key(stored_request_id), *FIELDS
        )
        if body is None:
            return None
        try:
            return StoredRequest(
                stored_request_id, path.decode(), await _on_thread(body, zlib.decompress), key.decode(),
                msgspec.json.decode(members, type=tuple[JobRef, ...]), answer, int(stored_at),
            )  # fmt: skip
        except (zlib.error, ValueError, AttributeError):  # another's hand was in it
            log.exception(
                "stored_request_unreadable",
                stored_request=stored_request_id,
                remedy="its jobs are parked: see what was sent",
            )
            return None

    async def save_response(self, stored_request_id: str, answer: bytes) -> bool:
        """Keep the provider's answer for members that are settled later; False when there is no envelope any more."""
        return bool(await self._scripts.run("request_save_response", [self._key(stored_request_id)], [answer]))

    async def detach(self, stored_request_id: str, job_ids: Sequence[str]) -> bool:
        """Free refused members. False when one of them is not ours any more: then nothing is written."""
        if not job_ids:
            return True
        keys = self._member_keys(stored_request_id, job_ids)
        return bool(await self._scripts.run("request_detach", keys, [self._token, stored_request_id]))

    def _key(self, stored_request_id: str) -> str:
        return self._keys.own(f"request:{stored_request_id}")

    def _member_keys(self, stored_request_id: str, job_ids: Sequence[str]) -> list[str]:
        keys = [self._key(stored_request_id)]
        for job_id in job_ids:
            keys += (self._keys.job(job_id), self._keys.lock(job_id))
        return keys


def _compress(body: bytes) -> bytes:
    return zlib.compress(body, ZLIB_LEVEL)


async def _on_thread(body: bytes, work: Callable[[bytes], bytes]) -> bytes:
    """Long bodies leave the loop alone; a thread for a short one would take longer than the work."""
    return await asyncio.to_thread(work, body) if len(body) > COMPRESS_OFF_THREAD_BYTES else work(body)

"""Limits on what clients can use: requests, and memory for request bodies."""

from __future__ import annotations

from aiohttp import web

from flowstate_daemon.base.clock import Clock

MAX_BODIES_BYTES = 8 * 1024 * 1024
AUTHENTICATED_PER_S, AUTHENTICATED_BURST = 20.0, 60.0
ANONYMOUS_PER_S, ANONYMOUS_BURST = 1.0, 20.0
RETRY_AFTER_S = 5
RESERVED = web.RequestKey("reserved_body_bytes", int)


class TokenBucket:
    """A token bucket: `burst` requests at once, `per_s` a second after that."""

    def __init__(self, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._tokens_left = burst
        self._refilled_at = clock.monotonic()

    def try_acquire(self) -> bool:
        """Take one token; False when none is left."""
        now = self._clock.monotonic()
        self._tokens_left = min(self._burst, self._tokens_left + (now - self._refilled_at) * self._per_s)
        self._refilled_at = now
        if self._tokens_left < 1:
            return False
        self._tokens_left -= 1
        return True


class BodyMemory:
    """The memory that the bodies of all requests may use together.

    Only bytes that have arrived count: a client cannot reserve memory by announcing a large body.
    """

    def __init__(self, max_bytes: int = MAX_BODIES_BYTES) -> None:
        self._free = max_bytes

    @property
    def free(self) -> int:
        return self._free

    def add(self, request: web.BaseRequest, size: int) -> None:
        """Count bytes of this request. Raises 503 when there is no memory for them; the client may try again."""
        if size > self._free:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": str(RETRY_AFTER_S)})
        self._free -= size
        request[RESERVED] = request.get(RESERVED, 0) + size

    def release(self, request: web.BaseRequest) -> None:
        """The request has ended."""
        self._free += request.pop(RESERVED, 0)


BODY_MEMORY = web.AppKey("body_memory", BodyMemory)

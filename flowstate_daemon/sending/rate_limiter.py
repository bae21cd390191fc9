"""The request rate to the provider, and whether it takes our mails at all, shared by all daemons on one Redis.

The bus asks for a slot before each request and reports what the answers say of the rate. The arithmetic stands in
`lua/includes/rate_limit.lua`, because asking and taking must be one step. Nothing sleeps here, nothing is sent here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

MAX_WAIT_S = 5.0  # then ask again: a person may have lifted the pause
POLL_INTERVAL_S = 1.0  # without a limit, other daemons' news is heard of at least this often
CONFIRM_S = 3600.0  # an unchanged limit is written down again, for what is never confirmed is forgotten
NO_LIMIT = 0.0
SIGNAL_TTL_MS = (
    600_000  # a closed lane is told for longer than its probes are apart; a wish to try is not kept for ever
)


class Rate(Protocol):
    """What the provider says: `remaining` of `limit` requests until `reset_s` seconds from now."""

    @property
    def limit(self) -> float: ...
    @property
    def remaining(self) -> float: ...
    @property
    def reset_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """The shared rate as a person wants to know it; `limit` None: no limit is known.

    `refusal` is the reason why the provider refuses the account, as the last daemon that tried received it.
    """

    limit: float | None
    slowdown: float
    blocked_for_ms: int
    bulk_paused_ms: int
    reason: str
    recent_requests: int
    refusal: str = ""


class RateLimiter:
    """One daemon's hold on the shared rate. Its calls raise Outage when Redis is away."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, assumed_rate: float | None = None) -> None:
        """`assumed_rate`, requests a second, holds until the provider tells its own."""
        self._connection = connection
        self._clock = clock
        self._rate = keys.own("rate")
        self._pause = keys.own("bulk-paused")
        self._closed = keys.own("provider-refused")
        self._request = keys.own("provider-retry")
        self._seen_request: bytes | None = None
        self._assumed = assumed_rate or NO_LIMIT
        self._scripts = Scripts(connection)
        self._limit = self._assumed
        self._received = False
        self._free_until = 0.0
        self._paused_until = 0.0
        self._confirm_at = 0.0

    @property
    def has_limit(self) -> bool:
        """Whether there is a limit, as last heard."""
        return self._limit > NO_LIMIT

    @property
    def limit(self) -> float:
        """Requests a second, as last heard; 0: no limit."""
        return self._limit

    @property
    def limit_known(self) -> bool:
        """Whether the rate is known, be it that there is none. Until then requests should go one at a time."""
        return self._received or self.has_limit

    @property
    def bulk_paused(self) -> bool:
        """Whether only urgent mails may go, as last heard."""
        return self._clock.monotonic() < self._paused_until

    async def acquire(self, urgent: bool = False) -> float:
        """Ask to start one request now: 0 means go, else the seconds to wait before asking again.

        An urgent request that is told to wait has the next slot reserved, if it asks again in time.
        """
        if self._clock.monotonic() < self._free_until and (urgent or not self.bulk_paused):
            return 0.0
        keys, args = [self._rate, self._pause], [int(urgent), self._assumed]
        wait_us, limit, pause_ms = await self._scripts.run("rate_acquire", keys, args)
        now = self._clock.monotonic()
        self._limit = float(limit)
        self._paused_until = now + pause_ms / 1e3
        self._free_until = 0.0 if self.has_limit or wait_us else now + POLL_INTERVAL_S
        return min(float(wait_us) / 1e6, MAX_WAIT_S)

    async def update_from_headers(self, rate: Rate | None) -> None:
        """Note what an answer has said of the rate; None: it said nothing. Asks Redis only if there is news."""
        self._received = True
        if rate is None or rate.limit < 1:
            return
        now = self._clock.monotonic()
        if rate.limit == self._limit and rate.remaining >= 1 and now < self._confirm_at:
            return
        output = [rate.limit, max(0, rate.remaining), round(max(0.0, rate.reset_s) * 1e6)]
        await self._scripts.run("rate_update", [self._rate], output)
        self._limit, self._free_until, self._confirm_at = float(rate.limit), 0.0, now + CONFIRM_S

    async def back_off(self, after_ms: int) -> None:
        """No daemon starts a request for so long, and all go slower for a while: the provider answered 429."""
        self._free_until = 0.0
        await self._scripts.run("rate_back_off", [self._rate], [max(0, after_ms) * 1000])

    async def pause_bulk(self, until_ms: int, reason: str) -> None:
        """Only urgent mails until that time (the quota is used up); a time that is over lifts the pause."""
        left_ms = max(0, until_ms - self._clock.now_ms())
        if left_ms:
            await self._connection.execute("SET", self._pause, reason, "PX", left_ms)
        else:
            await self._connection.execute("DEL", self._pause)
        self._paused_until = self._clock.monotonic() + left_ms / 1e3

    async def publish_refusal(self, closed: str | None) -> None:
        """Tell everybody why the provider refuses us, or that it does not any more."""
        if closed is None:
            await self._connection.execute("DEL", self._closed)
        else:
            await self._connection.execute("SET", self._closed, closed, "PX", SIGNAL_TTL_MS)

    async def request_retry(self) -> None:
        """Let every daemon try at once, whatever it waits for."""
        await self._connection.execute("SET", self._request, uuid4().hex, "PX", SIGNAL_TTL_MS)
        await self.pause_bulk(0, "")

    async def retry_requested(self) -> bool:
        """Whether somebody has asked since the last call."""
        request = await self._connection.execute("GET", self._request)
        is_new, self._seen_request = request is not None and request != self._seen_request, request
        return is_new

    async def state(self) -> RateLimitState:
        """The shared rate, for windows."""
        keys = [self._rate, self._pause, self._closed]
        limit, stretch, rest_us, pause_ms, reason, recent, closed = await self._scripts.run(
            "rate_state", keys, [self._assumed]
        )
        return RateLimitState(
            float(limit) or None, float(stretch), rest_us // 1000, pause_ms, _text(reason), recent, _text(closed)
        )


def _text(text: bytes) -> str:
    return text.decode("utf-8", "replace")

"""The provider's rate limit, and what each daemon knows of the provider, shared by all daemons on one Redis.

The dispatcher asks for a request token before each request and reports the rate headers of each response. The
arithmetic is in `lua/includes/rate_limit.lua`, because checking and taking a token must be one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import RateLimit
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts
from flowstate_daemon.sending.provider_state import ProviderState, State

MAX_WAIT_S = 5.0  # then ask again: an operator may have lifted the pause
POLL_INTERVAL_S = 1.0  # without a limit, Redis is asked at least this often for what other daemons learned
CONFIRM_S = 3600.0  # an unchanged limit is written again, because an unconfirmed one is forgotten
NO_LIMIT = 0.0
STATE_REPEAT_S = 20.0
STATE_TTL_MS = 60_000  # what a daemon published before it died is soon forgotten
BY_SEVERITY: tuple[State, ...] = ("refused", "circuit_open", "quota_exceeded")
SIGNAL_TTL_MS = 600_000  # longer than the time between two probes of a refused account


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """The shared rate limit for display; `limit` None: no limit is known.

    `problems` is what the daemons report that the provider does not accept emails from at the moment.
    """

    limit: float | None
    slowdown: float
    blocked_for_ms: int
    bulk_paused_ms: int
    reason: str
    recent_requests: int
    problems: tuple[ProviderState, ...] = ()

    @property
    def state(self) -> State:
        """The worst that a daemon reports; also a pause for an exceeded quota that no daemon has run into yet."""
        states: set[State] = {problem.state for problem in self.problems}
        if self.bulk_paused_ms:
            states.add("quota_exceeded")
        return next((state for state in BY_SEVERITY if state in states), "accepting")


class RateLimiter:
    """One daemon's view of the shared rate limit. Its calls raise StoreUnavailableError."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        clock: Clock,
        *,
        initial_rate: float | None = None,
        instance: str = "",
    ) -> None:
        """`initial_rate`, in requests per second, applies until the provider reports its own."""
        self._instance = instance
        self._connection = connection
        self._clock = clock
        self._rate = keys.own("rate")
        self._pause = keys.own("bulk-paused")
        self._states = keys.own("provider-states")
        self._retry = keys.own("provider-retry")
        self._seen_retry: bytes | None = None
        self._assumed = initial_rate or NO_LIMIT
        self._scripts = Scripts(connection)
        self._limit = self._assumed
        self._response_received = False
        self._free_until = 0.0
        self._paused_until = 0.0
        self._confirm_at = 0.0

    @property
    def has_limit(self) -> bool:
        """Whether there is a limit, as far as known."""
        return self._limit > NO_LIMIT

    @property
    def limit(self) -> float:
        """Requests per second, as far as known; 0: no limit."""
        return self._limit

    @property
    def limit_known(self) -> bool:
        """Whether the limit is known, or known not to exist. Until then requests should be sent one at a time."""
        return self._response_received or self.has_limit

    @property
    def bulk_paused(self) -> bool:
        """Whether only urgent emails may be sent, as far as known."""
        return self._clock.monotonic() < self._paused_until

    async def acquire(self, urgent: bool = False) -> float:
        """Ask for a token to start one request: 0 means start now, else the seconds to wait before asking again.

        An urgent request that has to wait gets the next token reserved, if it asks again in time.
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

    async def update_from_headers(self, rate_limit: RateLimit | None) -> None:
        """Record the rate headers of a response; None: it had none. Calls Redis only if something changed."""
        self._response_received = True
        if rate_limit is None or rate_limit.limit < 1:
            return
        now = self._clock.monotonic()
        if rate_limit.limit == self._limit and rate_limit.remaining >= 1 and now < self._confirm_at:
            return
        reset_us = round(max(0.0, rate_limit.reset_s) * 1e6)
        await self._scripts.run("rate_update", [self._rate], [rate_limit.limit, max(0, rate_limit.remaining), reset_us])
        self._limit, self._free_until, self._confirm_at = float(rate_limit.limit), 0.0, now + CONFIRM_S

    async def back_off(self, after_ms: int) -> None:
        """After a 429: no daemon starts a request for this time, and all send more slowly for a while."""
        self._free_until = 0.0
        await self._scripts.run("rate_back_off", [self._rate], [max(0, after_ms) * 1000])

    async def pause_bulk(self, until_ms: int, reason: str) -> None:
        """Send only urgent emails until that time (the quota is exceeded); a time in the past ends the pause."""
        remaining_ms = max(0, until_ms - self._clock.now_ms())
        if remaining_ms:
            await self._connection.execute("SET", self._pause, reason, "PX", remaining_ms)
        else:
            await self._connection.execute("DEL", self._pause)
        self._paused_until = self._clock.monotonic() + remaining_ms / 1e3

    async def publish_state(self, state: ProviderState) -> None:
        """Publish what this daemon knows of the provider; to be repeated at least every STATE_REPEAT_S."""
        published = b"" if state.is_accepting else msgspec.json.encode(replace(state, instance=self._instance))
        await self._scripts.run("publish_provider_state", [self._states], [self._instance, published, STATE_TTL_MS])

    async def announce_recovery(self) -> None:
        """The provider accepts emails again: daemons that still wait for their next probe try at once."""
        self._seen_retry = uuid4().hex.encode()
        await self._connection.execute("SET", self._retry, self._seen_retry, "PX", SIGNAL_TTL_MS)

    async def request_retry(self) -> None:
        """Ask every daemon to try at once, whatever it waits for."""
        await self._connection.execute("SET", self._retry, uuid4().hex, "PX", SIGNAL_TTL_MS)
        await self.pause_bulk(0, "")

    async def retry_requested(self) -> bool:
        """Whether a retry was requested since the last call."""
        retry = await self._connection.execute("GET", self._retry)
        is_new, self._seen_retry = retry is not None and retry != self._seen_retry, retry
        return is_new

    async def state(self) -> RateLimitState:
        """The shared rate limit, for display."""
        keys = [self._rate, self._pause, self._states]
        limit, slowdown, blocked_us, pause_ms, reason, recent, states = await self._scripts.run(
            "rate_state", keys, [self._assumed, STATE_TTL_MS]
        )
        problems = (_parse_state(text, age_ms) for age_ms, text in states)
        return RateLimitState(
            float(limit) or None,
            float(slowdown),
            blocked_us // 1000,
            pause_ms,
            _text(reason),
            recent,
            tuple(sorted(filter(None, problems), key=lambda one: one.instance)),
        )


def _parse_state(text: bytes, age_ms: int) -> ProviderState | None:
    """What a daemon published `age_ms` ago; None if another version of the daemon wrote something else."""
    try:
        state = msgspec.json.decode(text, type=ProviderState)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if state.next_probe_ms is None:
        return state
    return replace(state, next_probe_ms=max(state.next_probe_ms - age_ms, 0))


def _text(text: bytes) -> str:
    return text.decode("utf-8", "replace")

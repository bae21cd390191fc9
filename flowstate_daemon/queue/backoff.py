"""The delay before the next attempt of a failed job. Pure."""

from __future__ import annotations

from random import Random

from flowstate_daemon.base.errors import PermanentError
from flowstate_daemon.queue.job import Backoff, JobOptions

MAX_DELAY_MS = 365 * 24 * 3600 * 1000  # one year, which is an exact score in `delayed`
MAX_DOUBLINGS = 50


def next_delay_ms(
    options: JobOptions,
    attempts_made_after: int,
    *,
    at_least_ms: int = 0,
    jitter: float = 0.0,
    rng: Random | None = None,
) -> int:
    """The delay before the next attempt, after `attempts_made_after` failed ones; 0 without a backoff, as in Bull.

    `jitter` is the random share of the delay. `at_least_ms` is the minimum that the provider asked for and is always
    respected. Raises PermanentError for an unknown kind of backoff.
    """
    delay_ms = 0.0 if options.backoff is None else _delay_ms(options.backoff, attempts_made_after)
    if jitter and rng is not None:
        delay_ms *= 1 - jitter * rng.random()
    return min(max(round(delay_ms), at_least_ms), MAX_DELAY_MS)


def _delay_ms(backoff: Backoff, made: int) -> float:
    base_ms = min(max(backoff.delay_ms, 0), MAX_DELAY_MS)
    match backoff.kind:
        case "fixed":
            return base_ms
        case "exponential":
            return base_ms * 2.0 ** min(max(made - 1, 0), MAX_DOUBLINGS)
    raise PermanentError(f"unknown backoff type {backoff.kind[:50]!r}; known are fixed and exponential")

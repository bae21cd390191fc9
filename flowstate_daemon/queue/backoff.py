"""When a failed job is tried again. Pure; the engine asks, the queue's scripts write what it says."""

from __future__ import annotations

from random import Random

from flowstate_daemon.base.errors import PermanentError
from flowstate_daemon.queue.job import Backoff, JobOptions

MAX_DELAY_MS = 365 * 24 * 3600 * 1000  # far enough, and exact as a score of the delayed set
MAX_DOUBLINGS = 50


def next_delay_ms(
    options: JobOptions,
    attempts_made_after: int,
    *,
    at_least_ms: int = 0,
    jitter: float = 0.0,
    rng: Random | None = None,
) -> int:
    """The wait before the next try, after so many have failed; 0 is at once, as in Bull without a backoff.

    `jitter` is the share of the wait that is left to chance. `at_least_ms`, what the other side asked for, wins
    over everything. Raises Final when the job asks for a kind of backoff that does not exist.
    """
    wait_ms = 0.0 if options.backoff is None else _wait_ms(options.backoff, attempts_made_after)
    if jitter and rng is not None:
        wait_ms *= 1 - jitter * rng.random()
    return min(max(round(wait_ms), at_least_ms), MAX_DELAY_MS)


def _wait_ms(backoff: Backoff, made: int) -> float:
    base_ms = min(max(backoff.delay_ms, 0), MAX_DELAY_MS)
    match backoff.kind:
        case "fixed":
            return base_ms
        case "exponential":
            return base_ms * 2.0 ** min(max(made - 1, 0), MAX_DOUBLINGS)
    raise PermanentError(f"unknown backoff type {backoff.kind[:50]!r}; known are fixed and exponential")

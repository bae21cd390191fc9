"""Capped exponential backoff for everything that waits for a store or the provider.

The delays between the attempts of a job are Bull's own arithmetic and are computed in `queue/backoff.py`.
"""

from __future__ import annotations


class Backoff:
    """Delays that double from `min_s` up to `max_s`, until `reset()`."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self.delay_s = 0.0  # the delay returned last; 0 while nothing has failed

    def next_s(self) -> float:
        """Record one more failure and return the delay, in seconds, before the next try."""
        self.delay_s = min(max(self.delay_s * 2, self._min_s), self._max_s)
        return self.delay_s

    def reset(self) -> None:
        """Record a success: the next failure starts with `min_s` again."""
        self.delay_s = 0.0

"""Capped exponential backoff."""

from __future__ import annotations

from flowstate_daemon.base.backoff import Backoff


def test_next_s_doubles_up_to_the_maximum() -> None:
    """The delay starts at the minimum, doubles with every failure and stays at the maximum."""
    backoff = Backoff(0.1, 0.5)
    assert [backoff.next_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert backoff.delay_s == 0.5


def test_next_s_after_reset() -> None:
    """A success starts the delays anew."""
    backoff = Backoff(0.1, 0.5)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.delay_s == 0
    assert backoff.next_s() == 0.1

"""When a failed job is tried again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import PermanentError
from flowstate_daemon.queue.backoff import MAX_DELAY_MS, next_delay_ms
from flowstate_daemon.queue.job import Backoff, JobOptions


def waits(kind: str, delay_ms: float, attempts: int = 3) -> list[int]:
    options = JobOptions(backoff=Backoff(kind, delay_ms))
    return [next_delay_ms(options, made) for made in range(1, attempts + 1)]


def test_exponential_doubles() -> None:
    """2 s, 4 s, 8 s."""
    assert waits("exponential", 2000) == [2000, 4000, 8000]


def test_fixed_stays() -> None:
    """The same wait each time."""
    assert waits("fixed", 500) == [500, 500, 500]


def test_without_a_backoff_at_once() -> None:
    """As in Bull, but not before the other side will have it."""
    assert next_delay_ms(JobOptions(), 1) == 0
    assert next_delay_ms(JobOptions(), 1, at_least_ms=700) == 700


@pytest.mark.parametrize("delay_ms", [0, -5])
def test_no_delay_is_at_once(delay_ms: float) -> None:
    """Zero and less."""
    assert waits("exponential", delay_ms) == [0, 0, 0]


@pytest.mark.parametrize("kind", ["fibonacci", "", "Fixed", "x" * 1000])
def test_unknown_kinds_are_final(kind: str) -> None:
    """The reason names the kind, and not at any length."""
    with pytest.raises(PermanentError, match="unknown backoff type") as refused:
        next_delay_ms(JobOptions(backoff=Backoff(kind, 5)), 1)
    assert len(refused.value.reason) < 120


@given(
    st.sampled_from(["fixed", "exponential"]),
    st.floats(-1e300, 1e300),
    st.integers(0, 10**9),
    st.floats(0, 1),
    st.integers(0, 10**9),
)
def test_any_wait_can_be_stored(kind: str, delay_ms: float, made: int, jitter: float, floor: int) -> None:
    """Jitter only shortens, the other side's wish is a floor, nothing lies beyond a year."""
    options = JobOptions(backoff=Backoff(kind, delay_ms))
    wait_ms = next_delay_ms(options, made, at_least_ms=floor, jitter=jitter, rng=random.Random(made))
    assert floor <= wait_ms <= MAX_DELAY_MS
    assert wait_ms <= max(floor, next_delay_ms(options, made))
    assert wait_ms + 1 >= (1 - jitter) * next_delay_ms(options, made)

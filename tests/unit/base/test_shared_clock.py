"""The wall clock that daemons share: it follows Redis, and no jump of any clock moves it before it has lasted."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.shared_clock import SETTLE_S, SharedClock
from tests.support.clock import FakeClock

MAX_S = 30.0
DAY_S = 86_400.0


def offset(clock: FakeClock, ahead_s: float = 0.0) -> float:
    """The offset of a server whose clock is ahead of this machine's."""
    return clock.now_ms() - clock.monotonic() * 1000 + ahead_s * 1000


@pytest.fixture
def shared(clock: FakeClock) -> SharedClock:
    return SharedClock(clock, MAX_S)


def test_before_redis_is_reached_it_is_the_clock_of_the_machine(clock: FakeClock, shared: SharedClock) -> None:
    """And so it stays where Redis does not report its time."""
    assert shared.now_ms() == clock.now_ms()
    shared.observe(None, None)
    clock.advance(5)
    assert (shared.now_ms(), shared.reliable) == (clock.now_ms(), True)
    shared.observe(None, offset(clock, 31))
    assert shared.disagreement == "the clock of Postgres is 31 s ahead of that of this machine"


@pytest.mark.parametrize("ahead_s", [31.0, 660.0, -660.0, 3 * DAY_S, -400 * DAY_S])
def test_it_follows_redis_and_names_the_clock_that_differs(
    clock: FakeClock, shared: SharedClock, ahead_s: float
) -> None:
    """The time is that of Redis, whoever is wrong; while the clocks disagree it is not reliable."""
    shared.observe(offset(clock, -ahead_s), offset(clock, -ahead_s))
    assert shared.now_ms() == pytest.approx(clock.now_ms() - ahead_s * 1000, abs=1)
    side = "ahead of" if ahead_s > 0 else "behind"
    assert shared.disagreement == f"the clock of this machine is {round(abs(ahead_s))} s {side} that of Redis"
    shared.observe(offset(clock, -ahead_s), offset(clock))
    assert shared.disagreement is not None
    assert f"the clock of Postgres is {round(abs(ahead_s))} s {side} that of Redis" in shared.disagreement


@pytest.mark.parametrize("ahead_s", [0.0, 29.9, -29.9])
def test_small_differences_are_allowed(clock: FakeClock, shared: SharedClock, ahead_s: float) -> None:
    """And drift is followed: the offset is always the newest one."""
    shared.observe(offset(clock), offset(clock, ahead_s))
    assert shared.reliable
    for _ in range(20):
        clock.advance(30)
        clock.jump(-1.0)
        shared.observe(offset(clock), None)
    assert (shared.reliable, shared.now_ms()) == (True, clock.now_ms())


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 3 * DAY_S, 31.0])
def test_jump_of_this_machine_moves_nothing(clock: FakeClock, shared: SharedClock, jump_s: float) -> None:
    """It is noticed at once, without asking Redis, and forgotten as soon as the clock is set back."""
    shared.observe(offset(clock), offset(clock))
    before_ms = shared.now_ms()
    clock.jump(jump_s)
    assert (shared.now_ms(), shared.reliable) == (before_ms, False)
    clock.advance(25)
    assert shared.now_ms() == before_ms + 25_000
    clock.jump(-jump_s)
    assert (shared.now_ms(), shared.reliable) == (clock.now_ms(), True)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 3 * DAY_S])
def test_jump_of_all_clocks_for_a_while_moves_nothing(clock: FakeClock, shared: SharedClock, jump_s: float) -> None:
    """Stores on the same machine agree with its clock, but not with the time that has passed."""
    shared.observe(offset(clock), offset(clock))
    before_ms = shared.now_ms()
    clock.jump(jump_s)
    for _ in range(25):
        clock.advance(1)
        shared.observe(offset(clock), offset(clock))
        assert not shared.reliable
    assert shared.now_ms() == before_ms + 25_000
    clock.jump(-jump_s)
    shared.observe(offset(clock), offset(clock))
    assert (shared.now_ms(), shared.reliable) == (clock.now_ms(), True)


def test_jump_that_lasts_is_a_correction(clock: FakeClock, shared: SharedClock) -> None:
    """All clocks agree on the new time for five minutes. A second jump starts the five minutes anew."""
    shared.observe(offset(clock), offset(clock))
    clock.jump(7200)
    shared.observe(offset(clock), offset(clock))
    clock.advance(SETTLE_S - 1)
    clock.jump(-3600)
    shared.observe(offset(clock), offset(clock))
    clock.advance(SETTLE_S - 1)
    shared.observe(offset(clock), offset(clock))
    assert not shared.reliable
    clock.advance(1)
    shared.observe(offset(clock), offset(clock))
    assert (shared.now_ms(), shared.reliable) == (clock.now_ms(), True)


def test_redis_alone_jumps(clock: FakeClock, shared: SharedClock) -> None:
    """For example after a failover to a machine with another clock: then both are named until somebody corrects one."""
    shared.observe(offset(clock), offset(clock))
    shared.observe(offset(clock, 660), offset(clock))
    assert shared.disagreement == "the clock of Redis jumped by 660 s"
    clock.advance(SETTLE_S)
    shared.observe(offset(clock, 660), offset(clock))
    assert shared.disagreement is not None
    assert "the clock of this machine is 660 s behind that of Redis" in shared.disagreement
    assert "the clock of Postgres is 660 s behind that of Redis" in shared.disagreement

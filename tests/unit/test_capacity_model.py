"""The simulated day of docs/capacity.md agrees with its formulas, and says when a limit is too low."""

from __future__ import annotations

import pytest

from tests.bench.capacity_model import DAY_S, Costs, Load, limits, plan, simulate, wall

COSTS = Costs(
    daemon_cpu_us=800,
    redis_cpu_us=125,
    postgres_cpu_us=260,
    waiting_job_bytes=900,
    ledger_row_bytes=780,
    request_row_bytes=200,
    scheduled_row_bytes=1_030,
    delete_rows_per_s=17_000,
)


@pytest.mark.parametrize("people", [10_000, 1_000_000, 100_000_000])
def test_the_largest_zone_is_served_in_time_at_the_rate_of_the_formula(people: int) -> None:
    """It shares its moment with a small zone, and codes go first: still within two hours, and none is left."""
    load = Load(people)
    day = simulate(load, load.needed_rate)
    assert load.morning_s <= day.morning_s <= 2 * load.morning_s
    assert day.left == 0
    assert day.sent == pytest.approx(load.mails_a_day, rel=0.001)


def test_below_the_needed_rate_emails_are_left() -> None:
    """At a rate lower than a day's emails need, the backlog is what the formula says."""
    load = Load(1_000_000)
    rate = load.mails_a_day / DAY_S / 2
    day = simulate(load, rate)
    assert day.left > 0
    assert day.sent + day.left == pytest.approx(load.mails_a_day, rel=0.001)


def test_the_wall_is_the_smallest_limit() -> None:
    """With one daemon it is the daemon, with many of them the provider."""
    assert wall(COSTS, daemons=1, requests_per_s=10) == ("daemons", pytest.approx(875))
    assert wall(COSTS, daemons=4, requests_per_s=10) == ("provider", 1000)
    assert set(limits(COSTS, daemons=1, requests_per_s=2)) == {"provider", "daemons", "Redis", "Postgres, one core"}


def test_a_plan_grows_with_the_people() -> None:
    """Daemons are whole; everything else grows in proportion."""
    small, large = (plan(COSTS, Load(people)) for people in (10_000, 100_000_000))
    assert (small.daemons, large.daemons) == (1, 11)
    assert large.redis_mb == pytest.approx(10_000 * small.redis_mb, rel=0.01)
    assert large.ledger_rows == pytest.approx(10_000 * small.ledger_rows)

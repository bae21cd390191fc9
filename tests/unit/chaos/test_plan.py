"""The plan of a chaos round is a function of its seed, and all faults appear in some plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.faults import INJECTORS
from tests.chaos.plan import ALL, KINDS, MAX_ROUND_S, MIN_ROUND_S, QUIET_S, REDIS, WEIGHTS, build_plan

SEEDS = st.integers(min_value=0, max_value=10**9)
LENGTHS = st.floats(min_value=MIN_ROUND_S, max_value=300.0)
GOLDEN = (
    ("single", 2, False),
    [("postgres-slow", 11.55, -1), ("pause", 18.85, 0), ("provider-429", 21.22, -1), ("postgres-half-open", 28.64, -1)],
)


@given(SEEDS, LENGTHS)
def test_the_same_seed_gives_the_same_plan(seed: int, seconds: float) -> None:
    """A violation can be replayed from what is printed."""
    assert build_plan(seed, seconds) == build_plan(seed, seconds)


def test_a_plan_never_changes_by_itself() -> None:
    """A seed in an old report still means the same faults; a new kind of fault may change this test."""
    plan = build_plan(7, 60)
    assert (plan.redis, plan.daemons, plan.bull) == GOLDEN[0]
    assert [(fault.kind, fault.at_s, fault.target) for fault in plan.faults[:4]] == GOLDEN[1]


def test_other_seeds_give_other_plans() -> None:
    assert len({build_plan(seed).faults for seed in range(50)}) == 50


def test_every_kind_of_fault_and_every_set_up_appears() -> None:
    """Over a few hundred seeds nothing is left out: kinds, Redis set-ups, one to three daemons, a Bull worker."""
    plans = [build_plan(seed) for seed in range(200)]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(KINDS) == set(INJECTORS)
    assert {(plan.redis, plan.daemons) for plan in plans} == {(redis, count) for redis in REDIS for count in (1, 2, 3)}
    assert {plan.bull for plan in plans} == {True, False}


@given(SEEDS, LENGTHS)
def test_faults_fit_the_set_up_and_the_round(seed: int, seconds: float) -> None:
    """Each fault is possible on these stores, hits a daemon that exists, and ends before the round does."""
    plan = build_plan(seed, seconds)
    assert set(WEIGHTS) <= set(KINDS)
    for fault in plan.faults:
        kind = KINDS[fault.kind]
        assert plan.redis in kind.on
        assert plan.bull or not kind.bull
        assert fault.target == ALL or (kind.aimed and 0 <= fault.target < plan.daemons)
        assert QUIET_S < fault.at_s <= fault.at_s + fault.lasts_s <= seconds - QUIET_S + 0.02
        assert kind.size[0] <= round(fault.size, 3) <= kind.size[1]


@pytest.mark.parametrize("seconds", [0.0, MIN_ROUND_S - 1, MAX_ROUND_S + 1, float("nan")])
def test_a_round_of_an_impossible_length_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="a round takes between"):
        build_plan(1, seconds)

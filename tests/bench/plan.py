"""What `make bench` and `make bench-quick` measure: steps, sizes, rounds and peers, and in which order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import measurements
from tests.bench.measurements import Figures
from tests.bench.peers import Peer
from tests.bench.profile import profile

Measure = Callable[..., Awaitable[Figures]]
RATE_LIMIT = 10  # requests a second that the provider allows


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement with its options. `kinds` are those of the peers; `peer_rounds` limits the rounds of others."""

    name: str
    measure: Measure
    options: Mapping[str, Any]
    kinds: frozenset[str] = frozenset(("ours", "node", "python"))
    batched: bool = False
    peer_rounds: int = 1_000
    of_ours: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, peer: Peer, number: int) -> bool:
        """Whether a peer takes part in a round, counted from 1."""
        if peer.kind not in self.kinds or (self.batched and not peer.batched):
            return False
        return peer.kind == "ours" or number <= self.peer_rounds

    def options_for(self, peer: Peer) -> dict[str, Any]:
        return {**self.options, **(self.of_ours if peer.kind == "ours" else {})}


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, how often, and after how many seconds no further measurement starts."""

    name: str
    rounds: int
    budget_s: float
    steps: Sequence[Step]
    peers: Sequence[str] = ()

    def runs(self, peers: Sequence[Peer]) -> Iterator[tuple[int, Step, Peer]]:
        """Round by round; within a step the peers follow each other, so that a slow minute affects all of them.

        Every second round starts from the other end of the table.
        """
        for number in range(1, self.rounds + 1):
            for step in self.steps:
                for peer in peers if number % 2 else reversed(peers):
                    if step.applies(peer, number):
                        yield number, step, peer


OURS, RENDERING = frozenset(("ours",)), frozenset(("ours", "python"))


def build_plan(name: str) -> Plan:
    """`full`, `quick` (under three minutes) or `smoke` (one peer, seconds)."""
    if name == "full":
        return _full()
    return _quick() if name == "quick" else _smoke()


def _full() -> Plan:
    # What takes minutes for each peer is measured in one round of peers. All together take about an hour and a half.
    waiting = [
        Step(f"backlog-{size}", measurements.under_backlog, {"jobs": size, "limit_s": 20.0}, peer_rounds=rounds)
        for size, rounds in ((10_000, 3), (100_000, 1))
    ]
    million = {"jobs": 1_000_000, "limit_s": 20.0}
    without_python = frozenset(("ours", "node"))  # most Python peers need half an hour to add a million jobs
    steps = (
        Step("drain", measurements.drain, {"jobs": 20_000, "limit_s": 30.0}),
        Step("scripts", measurements.scripts, {"jobs": 50_000, "limit_s": 120.0}, kinds=OURS),
        *_mails(10_000, 2_000, 20.0),
        *_profiles(100_000, 20_000),
        Step("latency", measurements.latency, {"jobs": 200, "limit_s": 120.0}, peer_rounds=1),
        Step("idle", measurements.idle, {"seconds": 60.0}, peer_rounds=1),
        *waiting,
        Step("recovery", measurements.recovery, {"limit_s": 75.0}, peer_rounds=1),
        Step("backlog-1000000", measurements.under_backlog, million, kinds=without_python, peer_rounds=1),
    )
    return Plan("full", 3, 3 * 3600.0, steps)


def _quick() -> Plan:
    steps = (
        Step("drain", measurements.drain, {"jobs": 3_000, "limit_s": 4.0}),
        Step("scripts", measurements.scripts, {"jobs": 10_000, "limit_s": 20.0}, kinds=OURS),
        Step("idle", measurements.idle, {"seconds": 5.0}, peer_rounds=1),
        Step("recovery", measurements.recovery, {"limit_s": 5.0}, peer_rounds=1),
        *_mails(1_000, 300, 3.0),
        *_profiles(10_000, 2_000),
        Step("latency", measurements.latency, {"jobs": 30, "limit_s": 10.0}, peer_rounds=1),
        Step("backlog-3000", measurements.under_backlog, {"jobs": 3_000, "limit_s": 6.0}, peer_rounds=1),
    )
    return Plan("quick", 3, 150.0, steps, ("bull", "dramatiq"))


def _smoke() -> Plan:
    steps = (
        Step("drain", measurements.drain, {"jobs": 100, "limit_s": 10.0}),
        Step("scripts", measurements.scripts, {"jobs": 200, "limit_s": 20.0}, kinds=OURS),
        _mails(20, 5, 5.0)[0],
        *_profiles(20_000, 2_000),
        Step("latency", measurements.latency, {"jobs": 3, "limit_s": 10.0}),
    )
    return Plan("smoke", 1, 200.0, steps, ("dramatiq",))


def _profiles(jobs: int, emails: int) -> tuple[Step, ...]:
    return (
        Step("profile-noop", profile, {"jobs": jobs, "emails": False}, kinds=OURS),
        Step("profile-email", profile, {"jobs": emails, "emails": True}, kinds=OURS),
    )


def _mails(batched: int, single: int, limit_s: float) -> tuple[Step, ...]:
    base = {"limit_s": limit_s}
    limited = {"mode": "single", "limit": RATE_LIMIT, "jobs": round(RATE_LIMIT * limit_s)}
    ours_limited = {"jobs": round(100 * RATE_LIMIT * limit_s / 2)}
    return (
        Step(
            "mails-batch",
            measurements.mails,
            {**base, "mode": "batch", "limit": None, "jobs": batched},
            kinds=RENDERING,
            batched=True,
        ),
        Step(
            "mails-single",
            measurements.mails,
            {**base, "mode": "single", "limit": None, "jobs": single},
            kinds=frozenset(("python",)),
            peer_rounds=1,
        ),
        Step(
            "mails-limited",
            measurements.mails,
            {**base, **limited},
            kinds=RENDERING,
            peer_rounds=1,
            of_ours=ours_limited,
        ),
    )

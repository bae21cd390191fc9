"""The plan of a chaos round: which stores, how many daemons, and which faults when. A pure function of its seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Literal

ROUND_S = 120.0
RATE = 40.0  # emails per second
MIN_ROUND_S, MAX_ROUND_S = 20.0, 3_600.0
QUIET_S = 4.0  # before the first fault, and after the last one
INTERVAL_S = (1.0, 8.0)  # between the beginnings of two faults: some of them overlap
ALL = -1
ONE_DAEMON = 0.7  # the share of faults that concern one daemon only
WITH_BULL = 0.4

Redis = Literal["single", "pair", "sentinel"]
REDIS: tuple[Redis, ...] = ("single", "pair", "sentinel")


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault. It lasts between `lasts_s`; `size` is what each kind makes of it, such as a share of requests.

    `on` are the Redis set-ups in which it is possible.
    """

    name: str
    text: str
    lasts_s: tuple[float, float] = (0.0, 0.0)
    size: tuple[float, float] = (0.0, 0.0)
    on: tuple[Redis, ...] = REDIS
    aimed: bool = False  # at one daemon, or at all of them
    bull: bool = False  # needs the Bull worker


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault. `target` is the number of a daemon, or ALL."""

    kind: str
    at_s: float
    lasts_s: float
    target: int
    size: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in a round."""

    seed: int
    seconds: float
    redis: Redis
    daemons: int
    bull: bool
    faults: tuple[Fault, ...]
    rate: float = RATE

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def has(self, *kinds: str) -> bool:
        return any(fault.kind in kinds for fault in self.faults)


PROXIED: tuple[Redis, ...] = ("single", "pair")
KINDS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        FaultKind("kill", "kill -9 of a daemon, which starts again", (0.0, 6.0), aimed=True),
        FaultKind("restart", "SIGTERM to a daemon at work, as in a deployment", (0.0, 3.0), aimed=True),
        FaultKind("pause", "SIGSTOP of a daemon for up to 16 s, twice as long as its locks last, then SIGCONT",
                  (0.5, 16.0), aimed=True),
        FaultKind("clock-jump", "the clock of a machine jumps by up to three days, and back", (2.0, 15.0),
                  (-3 * 86_400.0, 3 * 86_400.0), aimed=True),
        FaultKind("log-full", "the disk of a daemon's log is full, or its reader stops", (2.0, 12.0), aimed=True),
        FaultKind("redis-restart", "kill -9 of Redis, which loads its append-only file", (0.0, 5.0), on=("single",)),
        FaultKind("redis-disk-full", "Redis cannot write its append-only file, and exits", (1.0, 6.0), on=("single",)),
        FaultKind("redis-failover", "a replica that lacks the newest writes becomes the primary", (0.2, 1.5),
                  on=("pair", "sentinel")),
        FaultKind("redis-full", "Redis is out of memory and refuses writes", (1.0, 8.0)),
        FaultKind("redis-slow", "packets to and from Redis are delayed", (2.0, 10.0), (0.02, 0.4), PROXIED, aimed=True),
        FaultKind("redis-freeze", "connections to Redis stall", (1.0, 12.0), on=PROXIED, aimed=True),
        FaultKind("redis-reset", "open connections to Redis are reset", on=PROXIED, aimed=True),
        FaultKind("redis-half-open", "open connections to Redis drop all packets silently", on=PROXIED, aimed=True),
        FaultKind("postgres-restart", "kill -9 of Postgres, which recovers", (0.0, 4.0)),
        FaultKind("postgres-outage", "Postgres refuses connections", (3.0, 20.0), aimed=True),
        FaultKind("postgres-slow", "packets to and from Postgres are delayed", (2.0, 10.0), (0.05, 1.5), aimed=True),
        FaultKind("postgres-half-open", "open connections to Postgres drop all packets silently", aimed=True),
        FaultKind("postgres-read-only", "Postgres refuses writes, as a hosted one does when its disk is full",
                  (2.0, 12.0)),
        FaultKind("provider-429", "the provider limits requests", (1.0, 6.0), (0.3, 1.0)),
        FaultKind("provider-5xx", "the provider responds with 500 or 503", (1.0, 6.0), (0.3, 1.0)),
        FaultKind("provider-late", "the provider accepts after the timeout", (1.0, 6.0), (0.3, 1.0)),
        FaultKind("provider-cut", "the provider accepts, and the connection ends before or during its response",
                  (1.0, 6.0), (0.3, 1.0)),
        FaultKind("provider-refusals", "the provider rejects some of the emails of a batch", (2.0, 10.0), (0.02, 0.2)),
        FaultKind("provider-key", "the provider refuses the API key", (0.5, 4.0)),
        FaultKind("bull-kill", "kill -9 of the Bull worker, which starts again", (0.5, 4.0), bull=True),
    )
}  # fmt: skip
WEIGHTS = {"kill": 3.0, "redis-failover": 3.0, "redis-restart": 2.0, "pause": 2.0}
LOST_WRITES = ("redis-failover",)
PROVIDER = tuple(name for name in KINDS if name.startswith("provider-"))
POSTGRES = tuple(name for name in KINDS if name.startswith("postgres-"))


def build_plan(seed: int, seconds: float = ROUND_S) -> Plan:
    """The plan of this seed: the same on every machine. Raises ValueError for a length out of range."""
    if not MIN_ROUND_S <= seconds <= MAX_ROUND_S:
        raise ValueError(f"a round takes between {MIN_ROUND_S:g} and {MAX_ROUND_S:g} seconds")
    random = Random(f"chaos {seed}")
    redis = random.choice(REDIS)
    daemons = random.choice((1, 2, 2, 3))
    bull = redis != "sentinel" and random.random() < WITH_BULL
    possible = [kind for kind in KINDS.values() if redis in kind.on and (bull or not kind.bull)]
    weights = [WEIGHTS.get(kind.name, 1.0) for kind in possible]
    faults: list[Fault] = []
    at_s = QUIET_S
    while (at_s := at_s + random.uniform(*INTERVAL_S)) < seconds - QUIET_S:
        kind = random.choices(possible, weights)[0]
        lasts_s = min(random.uniform(*kind.lasts_s), max(0.0, seconds - QUIET_S - at_s))
        size = random.uniform(*kind.size)
        target = random.randrange(daemons) if kind.aimed and random.random() < ONE_DAEMON else ALL
        faults.append(Fault(kind.name, round(at_s, 2), round(lasts_s, 2), target, round(size, 3)))
    return Plan(seed, seconds, redis, daemons, bull, tuple(faults))

"""The table of peers: what is installed for each, and how it is set up. All of them follow `protocol.py`.

Where a peer has a choice, it gets the faster one that does not lose jobs when a worker is killed; where it has none,
`settings` says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".cache" / "bench"
US = "flowstate-daemon"


@dataclass(frozen=True, slots=True)
class Peer:
    """One queue library. `batched` is the concurrency with which handlers group a hundred emails; 0 = they cannot."""

    name: str
    kind: Literal["ours", "node", "python"]
    settings: str
    concurrency: int
    batched: int = 0
    redis: str = ""
    extras: tuple[str, ...] = ()
    urgent: str = "no priorities"

    def command(self, role: str, *options: str) -> tuple[str, ...]:
        """The command line of a child process in that role."""
        if self.kind == "node":
            return "node", str(HERE / "node_peers.mjs"), self.name, role, *options
        if self.kind == "ours":
            return sys.executable, "-m", "tests.bench.flowstate", role, *options
        return str(self.python), "-m", "tests.bench.python_peers", self.name, role, *options

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.name / "bin" / "python"

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip installs; versions that are not given here are those of `peers.txt`."""
        return self.name, self.redis, "hiredis", *self.extras


PEERS: Sequence[Peer] = (
    Peer(US, "ours", "its worker, 300 jobs at the same time", 300, 300, urgent="priority 1"),
    Peer("bull", "node", "one worker, 200 jobs at the same time", 200, urgent="priority 1"),
    Peer("bullmq", "node", "one worker, 200 jobs at the same time", 200, urgent="priority 1, the others 10"),
    Peer("arq", "python", "200 jobs at the same time, no results kept", 200, 300, "redis==5.3.1"),
    Peer("saq", "python", "200 jobs at the same time, no results kept", 200, 300, "redis==7.4.1"),
    Peer(
        "taskiq",
        "python",
        "RedisStreamBroker, 200 jobs at the same time (ListQueueBroker loses the jobs of a killed worker)",
        200,
        300,
        "redis==8.1.0",
        ("taskiq-redis",),
    ),
    Peer("dramatiq", "python", "8 threads", 8, 128, "redis==8.1.0", urgent="a queue of its own, in the same worker"),
    Peer(
        "rq",
        "python",
        "SimpleWorker, one job at a time (the default worker also forks for each job)",
        1,
        0,
        "redis==8.1.0",
        urgent="a queue of its own, read first",
    ),
    Peer("huey", "python", "8 threads; loses the jobs of a killed worker", 8, 128, "redis==8.1.0", urgent="priority"),
    Peer(
        "celery",
        "python",
        "8 threads, late acknowledgement, no gossip, no mingle, no results",
        8,
        128,
        "redis==8.1.0",
        ("kombu",),
        "priority",
    ),
)
BY_NAME = {peer.name: peer for peer in PEERS}


def select(names: Sequence[str]) -> list[Peer]:
    """The peers with these names and this daemon, in the order of the table; all without names. Raises ValueError."""
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise ValueError(f"no such peer: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    return [peer for peer in PEERS if not names or peer.name in names or peer.kind == "ours"]

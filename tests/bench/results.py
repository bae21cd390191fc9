"""The results of a benchmark: a JSON file that grows with every measurement, and the statistics over its rounds.

A run that was interrupted continues where it stopped, as long as the plan and the daemon's commit are the same.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from tests.bench.peers import ROOT, US


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one peer in one round: figures, or the error that prevented them."""

    step: str
    peer: str
    round: int
    figures: Mapping[str, float | None] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """The rounds of one figure. `missing` counts rounds in which it did not happen within the time limit."""

    low: float
    middle: float
    high: float
    rounds: int
    missing: int = 0


@dataclass
class Results:
    """Everything that one report is built from."""

    plan: str
    commit: str
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    limits_s: dict[str, float] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    complete: bool = False

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises OSError and ValueError."""
        content = json.loads(path.read_text())
        return cls(**{**content, "runs": [Run(**run) for run in content["runs"]]})

    def write(self, path: Path) -> None:
        """Write the file as a whole, so that an interruption leaves the earlier one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        head = {**asdict(self), "runs": []}
        runs = ",\n    ".join(json.dumps(asdict(run)) for run in self.runs)
        unfinished.write_text(json.dumps(head, indent=2).replace('"runs": []', f'"runs": [\n    {runs}\n  ]') + "\n")
        unfinished.replace(path)

    def too_late(self, step: str) -> str:
        """What to show for a figure that did not happen within the time limit of its step."""
        return f"not within {self.limits_s[step]:g} s" if step in self.limits_s else "not within the limit"

    def has(self, step: str, peer: str, number: int) -> bool:
        return any((run.step, run.peer, run.round) == (step, peer, number) for run in self.runs)

    def spread(self, step: str, peer: str, figure: str) -> Spread | None:
        """Minimum, median and maximum over the rounds; None without a value."""
        found = [
            run.figures[figure] for run in self.runs if run.step == step and run.peer == peer and figure in run.figures
        ]
        values = [value for value in found if value is not None]
        if not values:
            return None
        return Spread(min(values), median(values), max(values), len(values), len(found) - len(values))

    def errors(self, step: str, peer: str) -> list[str]:
        return [run.error for run in self.runs if run.step == step and run.peer == peer and run.error]

    def timed_out(self, step: str, peer: str, figure: str) -> bool:
        """Whether it was measured and never happened within the time limit."""
        found = [run for run in self.runs if run.step == step and run.peer == peer and figure in run.figures]
        return bool(found) and all(run.figures[figure] is None for run in found)

    def peers(self, step: str) -> list[str]:
        """The peers of a step, in the order of the table in which they ran first."""
        return list(dict.fromkeys(run.peer for run in self.runs if run.step == step))

    def steps(self) -> list[str]:
        return list(dict.fromkeys(run.step for run in self.runs))

    def ratio(self, step: str, other: str, figure: str, *, other_step: str | None = None) -> float | None:
        """Our median divided by that of a peer, in another step if one is given."""
        ours, theirs = self.spread(step, US, figure), self.spread(other_step or step, other, figure)
        if ours is None or theirs is None or not theirs.middle:
            return None
        return ours.middle / theirs.middle


def current_commit() -> str:
    """The commit of the working tree, with a mark if the daemon's code differs from it."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "flowstate_daemon"], check=False)
    return (commit.stdout.strip() or "unknown") + ("+" if changed.returncode else "")


def describe_machine() -> dict[str, Any]:
    """What a reader needs to judge absolute figures; no names of hosts."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }

"""A soak: a steady rate for a long time and no fault. Memory, descriptors and tasks must stay flat. `make soak`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from flowstate_daemon.base import logs
from tests.chaos.__main__ import ARTEFACTS, Screen, bounded, explain
from tests.chaos.history import Life
from tests.chaos.plan import MAX_ROUND_S, Plan
from tests.chaos.report import machine, write_report
from tests.chaos.round import RoundResult
from tests.chaos.world import remove
from tests.support.interrupts import interruptible

USAGE = "make soak ARGS='[--minutes MINUTES] [--rate RATE] [--json] [--report]'"
RATE = 60.0  # the memory of what was sent, 20,000 emails, is full after twelve minutes
DAEMONS = 2
MAX_RATE = 200.0


def quarters(values: list[float] | list[int]) -> tuple[float, float, float]:
    """The medians of the second and the last quarter, and the most."""
    width = max(1, len(values) // 4)
    return round(median(values[width : 2 * width] or values), 1), round(median(values[-width:]), 1), max(values)


def life_figures(life: Life) -> dict[str, Any]:
    samples = {"rss_mb": life.rss_mb, "fds": life.fds, "tasks": life.tasks}
    return {"daemon": life.daemon, **{name: quarters(values) for name, values in samples.items()}}  # type: ignore[arg-type]


async def run(plan: Plan) -> tuple[RoundResult, Path]:
    folder = Path(tempfile.mkdtemp(prefix="flowstate-soak-"))
    return await Screen(1).show(plan, 1, folder), folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", usage=USAGE, description=__doc__)
    parser.add_argument("--minutes", type=bounded(1, MAX_ROUND_S / 60), default=30.0)
    parser.add_argument("--rate", type=bounded(1, MAX_RATE), default=RATE, help="emails per second")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md and its figures")
    given = parser.parse_args()
    logs.configure("error")
    plan = Plan(0, given.minutes * 60, "single", DAEMONS, False, (), given.rate)
    with interruptible("make soak"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result, folder = runner.run(run(plan))
    if result.violations:
        explain(result, folder)
    else:
        remove(folder)
    lives = [life_figures(life) for life in result.history.lives]
    report = {"machine": machine(), "rate": given.rate, "rounds": [result.as_dict()], "lives": lives}
    ARTEFACTS.mkdir(exist_ok=True)
    (ARTEFACTS / "soak.json").write_text(json.dumps(report, indent=1) + "\n")
    for life in lives:
        print(f"daemon {life['daemon']}: " + ", ".join(f"{name} {life[name]}" for name in ("rss_mb", "fds", "tasks")))
    if given.report:
        write_report(soak=report)
    if given.json:
        print(json.dumps(report, indent=1))
    sys.exit(1 if result.violations else 0)


if __name__ == "__main__":
    main()

"""Chaos rounds: real daemons under load, random faults from a seed, and what must be true afterwards. `make chaos`.

Each round is planned by one seed, and the same seed always gives the same plan. Exit code 1 if an invariant does not
hold: then seed, plan and what happened to the email are printed, and the logs are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flowstate_daemon.base import logs
from tests.chaos.explanation import describe_plan, describe_violation
from tests.chaos.plan import KINDS, MAX_ROUND_S, MIN_ROUND_S, ROUND_S, Plan, build_plan
from tests.chaos.report import machine, write_report
from tests.chaos.round import RoundResult, UnplannedFailoverError, run_round
from tests.chaos.world import remove
from tests.compat.packages import MissingPackagesError, install
from tests.support.interrupts import interruptible

USAGE = """make chaos ARGS='[--minutes MINUTES] [--rounds ROUNDS] [--round-seconds ROUND_SECONDS]
       [--seed SEED] [--quick] [--keep] [--json] [--plan] [--report]'"""
ARTEFACTS = Path(__file__).parents[2] / "artefacts"
QUICK_SEED = 4711
QUICK_S = 70.0
OVERHEAD_S = 25.0  # of a round: start, drain, stop
SHOWN = 5  # violations that are told in full
MAX_MINUTES = 24 * 60.0
MAX_TRIES = 3


class Screen:
    """Progress: a bar on a terminal, one line a round otherwise. Writes to standard error."""

    def __init__(self, rounds: int) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn(),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._rounds = rounds

    async def show(self, plan: Plan, number: int, folder: Path) -> RoundResult:
        current = asyncio.current_task()
        assert current is not None
        # Without this, a stop of the command would leave its daemons behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
        text = f"round {number} of {self._rounds}, seed {plan.seed}: Redis {plan.redis}, {plan.daemons} daemon(s)"
        text += f"{', Bull worker' if plan.bull else ''}, {len(plan.faults)} faults"
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)
        task = self._bar.add_task(text, total=plan.seconds, now="starting")
        with self._bar:
            result = await run_round(
                plan, folder, lambda passed, now: self._bar.update(task, completed=passed, now=now)
            )
        self._bar.remove_task(task)
        figures = result.as_dict()
        state = "ok" if not result.violations else f"{len(result.violations)} VIOLATIONS"
        self._console.print(
            f"  {state}: {figures['emails']} emails, {figures['scheduled']} scheduled, {sum(result.faults.values())} "
            f"faults, {figures['processes']} processes, exceptions {figures['exceptions']}, {result.seconds:.0f} s",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
        return result


def explain(result: RoundResult, folder: Path) -> None:
    """Print what went wrong, and how to see it again."""
    for line in describe_plan(result.plan):
        print(line, file=sys.stderr)
    for violation in result.violations[:SHOWN]:
        print(f"{violation.invariant}: {violation.text}", file=sys.stderr)
        for line in describe_violation(violation, result.history, folder):
            print(line, file=sys.stderr)
    for violation in result.violations[SHOWN:]:
        print(f"{violation.invariant}: {violation.text}", file=sys.stderr)
    arguments = f"--seed {result.plan.seed} --rounds 1 --round-seconds {result.plan.seconds:g}"
    print(f"the same faults again: make chaos ARGS='{arguments}'; logs: {folder}", file=sys.stderr)


async def run_all(plans: Sequence[Plan], given: argparse.Namespace) -> list[RoundResult]:
    screen = Screen(len(plans))
    results = []
    for number, plan in enumerate(plans, 1):
        folder = Path(tempfile.mkdtemp(prefix=f"flowstate-chaos-{plan.seed}-"))
        results.append(await _run_one(screen, plan, number, folder))
        if results[-1].violations:
            explain(results[-1], folder)
        elif not given.keep:
            remove(folder)
        save(results)  # after each round: a later one may be interrupted
    return results


async def _run_one(screen: Screen, plan: Plan, number: int, folder: Path) -> RoundResult:
    """Repeats a round that says nothing. Raises UnplannedFailoverError after MAX_TRIES rounds."""
    for _ in range(MAX_TRIES - 1):
        try:
            return await screen.show(plan, number, folder)
        except UnplannedFailoverError as error:
            print(f"  void: {error}; once more", file=sys.stderr)
            for file in folder.iterdir():
                file.unlink()
    return await screen.show(plan, number, folder)


def save(results: Sequence[RoundResult]) -> dict[str, Any]:
    report = {"machine": machine(), "rounds": [result.as_dict() for result in results]}
    ARTEFACTS.mkdir(exist_ok=True)
    (ARTEFACTS / "chaos.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def plans_of(given: argparse.Namespace) -> list[Plan]:
    """The plans of the rounds that were asked for: consecutive seeds."""
    if given.quick:
        return [build_plan(seed, QUICK_S) for seed in (QUICK_SEED, given.seed)]
    rounds = given.rounds or max(1, round(given.minutes * 60 / (given.round_seconds + OVERHEAD_S)))
    return [build_plan(given.seed + number, given.round_seconds) for number in range(rounds)]


def bounded(least: float, most: float) -> Any:
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be between {least:g} and {most:g}")
        return value

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos", usage=USAGE, description=__doc__)
    parser.add_argument("--minutes", type=bounded(1, MAX_MINUTES), default=10.0, help="about how long; default 10")
    parser.add_argument("--rounds", type=int, help="how many rounds, instead of --minutes")
    parser.add_argument("--round-seconds", type=bounded(MIN_ROUND_S, MAX_ROUND_S), default=ROUND_S)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1_000_000), help="of the first round")
    parser.add_argument("--quick", action="store_true", help="3 minutes: a fixed seed and a random one")
    parser.add_argument("--keep", action="store_true", help="keep logs and the provider's record of good rounds too")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--plan", action="store_true", help="print the plans and run nothing")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md and its figures")
    given = parser.parse_args()
    plans = plans_of(given)
    if given.plan:
        print("\n".join(line for plan in plans for line in describe_plan(plan)))
        return
    logs.configure("error")
    try:
        install()
    except MissingPackagesError as missing:
        sys.exit(f"make chaos: {missing}")
    print(f"seed {given.seed}; {len(KINDS)} kinds of faults", file=sys.stderr)
    try:
        with interruptible("make chaos"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(run_all(plans, given))
    except UnplannedFailoverError as error:
        sys.exit(f"make chaos: {error}")
    report = save(results)
    if given.report:
        write_report(chaos=report)
    if given.json:
        print(json.dumps(report, indent=1))
    sys.exit(1 if any(result.violations for result in results) else 0)


if __name__ == "__main__":
    main()

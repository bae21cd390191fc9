"""The benchmark: this daemon beside other queue libraries, on one machine and one Valkey. `make bench`.

Writes the results as JSON after every measurement, and the report at the end. An interrupted run continues.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from flowstate_daemon.base import logs
from tests.bench.peers import ROOT
from tests.bench.plan import build_plan
from tests.bench.report import write
from tests.bench.results import Results
from tests.bench.runner import run_plan
from tests.support.interrupts import interruptible

HERE = Path(__file__).parent
DOCS = ROOT / "docs"


def folders(plan: str, output: Path | None) -> tuple[Path, Path]:
    """Where the results and the page of a plan go: those of the full one are part of the documentation."""
    if output is None and plan == "full":
        return HERE / "results.json", DOCS / "performance.md"
    folder = output or ROOT / "artefacts" / f"bench-{plan}"
    return folder / "results.json", folder / "performance.md"


def publish(results: Results, path: Path, page: Path) -> None:
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    write(results, page, page.parent / "images", str(shown))
    print(f"bench: wrote {page}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--plan", choices=("full", "quick", "smoke"), default="full")
    parser.add_argument("--peers", default="", help="names, separated by commas; all peers of the plan when absent")
    parser.add_argument("--fresh", action="store_true", help="forget the results of an unfinished run")
    parser.add_argument("--report", action="store_true", help="only write the report again from the results")
    parser.add_argument(
        "--minutes", type=float, help="how long to start further measurements, instead of the plan's time"
    )
    parser.add_argument("--output", type=Path, help="folder for results and report")
    given = parser.parse_args()
    logs.configure("error")
    path, page = folders(given.plan, given.output)
    if given.report:
        publish(Results.read(path), path, page)
        return
    names = [name for name in given.peers.split(",") if name]
    try:
        plan = build_plan(given.plan)
        plan = replace(plan, budget_s=given.minutes * 60) if given.minutes else plan
        with interruptible("make bench"):
            results = asyncio.run(run_plan(plan, names, path, fresh=given.fresh))
    except ValueError as error:
        sys.exit(f"bench: {error}")
    publish(results, path, page)


if __name__ == "__main__":
    main()

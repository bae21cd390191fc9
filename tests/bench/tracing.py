"""What traces cost: the same backlog with traces off, of one email in a hundred, and of every email.

`python -m tests.bench.tracing [--rounds N]`. The collector runs in the process of the benchmark and reads nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from flowstate_daemon.base import logs
from flowstate_daemon.dev.embedded import EmbeddedValkey
from tests.bench.delivery import unlimited
from tests.support.otlp_collector import OtlpCollector

MAILS = 20_000
SAMPLERS = {"off": None, "1 %": "0.01", "all": "1.0"}


async def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The figures of each round by sampler; the samplers take turns, so that a slow minute affects all of them."""
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in SAMPLERS}
    async with EmbeddedValkey() as valkey, OtlpCollector() as collector:
        collector.mode = "discard"
        for number in range(rounds):
            for name, ratio in SAMPLERS.items():
                settings = {
                    "FLOWSTATE_TRACING_ENABLED": str(ratio is not None),
                    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                    "OTEL_TRACES_SAMPLER_ARG": ratio or "",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                }
                with tempfile.TemporaryDirectory() as folder:
                    prefix = f"traced-{number}-{ratio}"
                    figures[name].append(await unlimited(valkey.url, Path(folder), MAILS, settings, prefix))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    logs.configure("warning")
    figures = asyncio.run(measure(parser.parse_args().rounds))
    table = Table(title=f"{MAILS} reminders, medians", title_justify="left")
    for column in ("traces", "emails/s", "emails per CPU s", "codes p50 ms", "codes p99 ms", "RSS, MB"):
        table.add_column(column)
    for name, runs in figures.items():
        names = ("mails_per_s", "mails_per_cpu_s", "code_p50_ms", "code_p99_ms")
        memory = median(run["rss_mb"][-1] for run in runs)
        table.add_row(name, *(f"{median(run[key] for run in runs):g}" for key in names), f"{memory:g}")
    Console().print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""The benchmark: this daemon beside npm bull, in one run, on one Valkey. `make bench`.

Prints a table and writes `artefacts/bench.json`. Read the figures as ratios: they are measured on the same machine, one
after the other, with the same jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from flowstate_daemon.base import logs
from flowstate_daemon.dev.embedded import EmbeddedValkey
from tests.bench.dashboard import dashboard
from tests.bench.dashboard import show as show_dashboard
from tests.bench.delivery import delivery
from tests.bench.delivery import show as show_delivery
from tests.bench.idle import idle_commands
from tests.bench.latency import latency
from tests.bench.rendering import rendering
from tests.bench.rendering import show as show_rendering
from tests.bench.scheduler import scheduler
from tests.bench.scheduler import show as show_scheduler
from tests.compat.packages import MissingPackagesError, install

HERE = Path(__file__).parent
ARTEFACTS = HERE.parent.parent / "artefacts"


async def output_of(*command: str) -> dict[str, Any]:
    """The JSON that a child process prints last. Raises RuntimeError with its error output."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"{command[1]} failed: {errors.decode()[-2000:]}")
    result: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return result


def node(script: str, *options: str) -> tuple[str, ...]:
    return "node", str(HERE / script), *options


async def drained(url: str, prefix: str, jobs: int, worker: Callable[[str], tuple[str, ...]]) -> dict[str, Any]:
    """Let npm bull fill a queue, let a worker drain it, and count what that cost Redis."""
    await output_of(*node("bull_producer.mjs", "--redis", url, "--prefix", prefix, "--jobs", str(jobs)))
    redis = Redis.from_url(url, decode_responses=True, protocol=2)
    before = (await redis.info("stats"))["total_commands_processed"]
    result = await output_of(*worker(prefix))
    after = (await redis.info("stats"))["total_commands_processed"]
    await redis.aclose()
    return {**result, "commands_per_job": round((after - before) / jobs, 2)}


async def measure(jobs: int, concurrency: int, rounds: int, idle_s: float, *, full: bool) -> dict[str, Any]:
    options = ("--jobs", str(jobs), "--concurrency", str(concurrency))
    async with EmbeddedValkey() as daemon:

        def flowstate(prefix: str) -> tuple[str, ...]:
            return sys.executable, "-m", "tests.bench.flowstate", "--redis", daemon.url, "--prefix", prefix, *options

        def bull(prefix: str) -> tuple[str, ...]:
            return node("bull_peer.mjs", "--redis", daemon.url, "--prefix", prefix, *options)

        runs: dict[str, list[dict[str, Any]]] = {"bull": [], "flowstate": []}
        for number in range(rounds):  # alternating, so that a slow minute of the machine affects both
            report(f"{jobs:,} jobs through npm bull and through this daemon, round {number + 1} of {rounds}")
            runs["bull"].append(await drained(daemon.url, f"b{number}", jobs, bull))
            runs["flowstate"].append(await drained(daemon.url, f"f{number}", jobs, flowstate))
        figures: dict[str, Any] = {"drain": {name: _middle(results) for name, results in runs.items()}}
        report("latency of a single job")
        figures["latency_ms"] = await latency(daemon.url, "latency")
        report(f"Redis commands of an idle daemon, {idle_s:g} s")
        figures["idle"] = await idle_commands(daemon.url, "idle", idle_s)
        report("delivery with and without a rate limit")
        figures["delivery"] = await delivery(daemon.url, full=full)
        report("rendering emails")
        figures["rendering"] = rendering()
        report("scheduled emails of one morning")
        figures["scheduler"] = await scheduler(daemon.url, full=full)
        report("the operator's pages beside many jobs")
        figures["dashboard"] = await dashboard(full=full)
        return figures


def report(step: str) -> None:
    """Print the current step."""
    print(f"bench: {step}", file=sys.stderr, flush=True)


def _middle(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median rate."""
    rate = statistics.median_low(result["rate"] for result in results)
    return next(result for result in results if result["rate"] == rate)


def show(figures: dict[str, Any]) -> None:
    drain, late, idle = figures["drain"], figures["latency_ms"], figures["idle"]
    table = Table(title="flowstate-daemon beside npm bull", title_justify="left")
    for column in ("", "npm bull", "flowstate-daemon", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    rate = [drain[name]["rate"] for name in ("bull", "flowstate")]
    cost = [drain[name]["commands_per_job"] for name in ("bull", "flowstate")]
    table.add_row("no-op jobs per second", *map(str, rate), f"{rate[1] / rate[0]:.2f}")
    table.add_row("Redis commands per job", *map(str, cost), f"{cost[1] / cost[0]:.2f}")
    table.add_row("RSS after draining, MB", "", str(drain["flowstate"]["rss_mb"]))
    table.add_row("enqueue to handler, p50 / p99 ms", "", f"{late['p50']} / {late['p99']}")
    table.add_row("idle Redis commands per minute", "", str(idle["commands_per_minute"]))
    table.add_row("idle RSS of the daemon, MB", "", str(idle["rss_mb"]))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument(
        "--full",
        action="store_true",
        help="100 000 emails, a million users, jobs and ledger rows instead of 20 000 and 200 000",
    )
    given = parser.parse_args()
    logs.configure("warning")
    try:
        install()
    except MissingPackagesError as missing:
        sys.exit(f"make bench: {missing}")
    figures = asyncio.run(measure(given.jobs, given.concurrency, given.rounds, given.idle_seconds, full=given.full))
    ARTEFACTS.mkdir(exist_ok=True)
    (ARTEFACTS / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)
    show_delivery(figures["delivery"])
    show_rendering(figures["rendering"])
    show_scheduler(figures["scheduler"])
    show_dashboard(figures["dashboard"])


if __name__ == "__main__":
    main()

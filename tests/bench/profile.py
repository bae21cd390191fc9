"""Where the CPU time of a real email and of a no-op job goes: by part of the worker, and by command of Redis.

A step of the benchmark's plans; `python -m tests.bench.profile [--jobs N]` prints the figures of one run. All are
microseconds a job, except those that begin with `calls`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flowstate_daemon.base import logs
from flowstate_daemon.dev.embedded import EmbeddedValkey
from tests.bench.delivery import provider
from tests.bench.flowstate import cpu_s
from tests.bench.measurements import (
    START_LIMIT_S,
    Bench,
    Figures,
    MeasurementError,
    daemon_settings,
)
from tests.bench.peers import BY_NAME, US, Peer
from tests.bench.sampling import FILE_VARIABLE, MODULE_VARIABLE
from tests.support.daemon import Daemon

SAMPLING = "tests.bench.sampling"
POLL_S = 0.01
LIMIT_S = 300.0
QUEUE = "bull:email"
OWN_COMMANDS = frozenset(("info", "llen", "config|resetstat"))  # those of this measurement
SCRIPT_CALLS = "evalsha"


async def profile(bench: Bench, peer: Peer, *, jobs: int, emails: bool) -> Figures:
    """Drain a backlog of real emails or of no-op jobs with a worker that samples itself."""
    await bench.fill(peer, jobs, "batch" if emails else "noop")
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        folder = Path(name)
        worker = _daemon(bench, folder) if emails else _no_op_worker(bench, peer, folder, jobs)
        async with worker as (pid, provider_pid):
            return await _measure(bench, pid, provider_pid, _output(folder), jobs)


def _output(folder: Path) -> Path:
    return folder / "parts.json"


def _environment(folder: Path, module: str) -> dict[str, str]:
    return {FILE_VARIABLE: str(_output(folder)), MODULE_VARIABLE: module}


@asynccontextmanager
async def _daemon(bench: Bench, folder: Path) -> AsyncIterator[tuple[int, int | None]]:
    """The process ids of the daemon and of the fake provider."""
    async with provider(folder, None) as fake:
        settings = {**daemon_settings(bench, fake.url), **_environment(folder, "flowstate_daemon")}
        async with Daemon(settings, folder, module=SAMPLING) as daemon:
            assert daemon.process is not None
            yield daemon.process.pid, fake.pid


@asynccontextmanager
async def _no_op_worker(bench: Bench, peer: Peer, folder: Path, jobs: int) -> AsyncIterator[tuple[int, int | None]]:
    # It has to outlive its last job to be asked for its samples.
    python, _, module, *options = bench.worker(peer, jobs + 1, "noop", LIMIT_S)
    async with bench.child((python, "-m", SAMPLING, *options), _environment(folder, module)) as child:
        await child.read(START_LIMIT_S)
        yield child.pid, None


async def _measure(bench: Bench, pid: int, provider_pid: int | None, output: Path, jobs: int) -> Figures:
    """From the first claimed jobs to the last settled one. Raises MeasurementError."""
    await _until(bench, jobs - 1)
    os.kill(pid, signal.SIGUSR2)
    measured = await _left(bench)
    await bench.redis.config_resetstat()
    before, provider_s = await bench.redis_use(), _cpu_s(provider_pid)
    await _until(bench, 0)
    provider_s = _cpu_s(provider_pid) - provider_s
    os.kill(pid, signal.SIGUSR2)
    after, commands = await bench.redis_use(), await bench.redis.info("commandstats")
    parts = await _read(output)
    if not measured or not parts:
        raise MeasurementError("too few jobs for a profile")
    seconds = {
        **{f"part {name}": seconds for name, seconds in parts.items()},
        "worker": sum(parts.values()),
        "redis": after["cpu_s"] - before["cpu_s"],
        "provider": provider_s,
    }
    figures: Figures = {name: round(value / measured * 1e6, 2) for name, value in seconds.items()}
    return {**figures, **dict(_commands(commands, measured))}


def _commands(stats: Mapping[str, Mapping[str, float]], jobs: int) -> Iterator[tuple[str, float]]:
    """Calls and microseconds by command; those of the scripts without the commands that they call."""
    found = {name.removeprefix("cmdstat_"): row for name, row in stats.items()}
    used = {name: row for name, row in found.items() if name not in OWN_COMMANDS}
    inner_us = sum(row["usec"] for name, row in used.items() if name != SCRIPT_CALLS)
    for name, row in used.items():
        usec = row["usec"] - (inner_us if name == SCRIPT_CALLS else 0)
        yield f"command {name}", round(max(usec, 0) / jobs, 3)
        yield f"calls {name}", round(row["calls"] / jobs, 3)


def _cpu_s(pid: int | None) -> float:
    return 0.0 if pid is None else cpu_s(pid)


async def _left(bench: Bench) -> int:
    return sum([await bench.redis.llen(f"{QUEUE}:{state}") for state in ("wait", "active")])


async def _until(bench: Bench, jobs: int) -> None:
    """Until at most so many jobs are left. Raises MeasurementError."""
    deadline = time.monotonic() + LIMIT_S
    while await _left(bench) > jobs:
        if time.monotonic() > deadline:
            raise MeasurementError(f"jobs are left after {LIMIT_S:g} s")
        await asyncio.sleep(POLL_S)


async def _read(output: Path) -> dict[str, float]:
    """Seconds by part. Raises MeasurementError."""
    deadline = time.monotonic() + START_LIMIT_S
    while not output.exists():
        if time.monotonic() > deadline:
            raise MeasurementError("the worker did not write its samples")
        await asyncio.sleep(POLL_S)
    return json.loads(output.read_text())  # type: ignore[no-any-return]


async def _profile_both(jobs: int) -> dict[str, Any]:
    async with EmbeddedValkey() as valkey:
        with tempfile.TemporaryDirectory() as name:
            bench, ours = Bench(valkey, Path(name)), BY_NAME[US]
            both = {
                "no-op job": await profile(bench, ours, jobs=5 * jobs, emails=False),
                "real email": await profile(bench, ours, jobs=jobs, emails=True),
            }
            await bench.redis.aclose()
            return both


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="emails; five times as many no-op jobs")
    logs.configure("warning")
    for work, figures in asyncio.run(_profile_both(parser.parse_args().jobs)).items():
        sys.stdout.write(f"{work}\n")
        for name, value in sorted(figures.items(), key=lambda item: (item[0].split()[0], -(item[1] or 0))):
            sys.stdout.write(f"  {value:10.2f}  {name}\n")


if __name__ == "__main__":
    main()

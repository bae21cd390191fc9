"""Runs a plan: measures what the results do not have yet, and writes them after every measurement."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from redis.exceptions import RedisError

from flowstate_daemon.dev.embedded import EmbeddedValkey
from tests.bench.environments import InstallError, install, version
from tests.bench.measurements import Bench, MeasurementError
from tests.bench.peers import Peer, select
from tests.bench.plan import Plan, Step
from tests.bench.results import Results, Run, current_commit, describe_machine

HARD_LIMIT_S = 900.0  # of one measurement, whatever its own limits do


def open_results(path: Path, plan: Plan, *, fresh: bool) -> Results:
    """The results of an interrupted run of the same plan and commit, or new ones."""
    commit = current_commit()
    if not fresh and path.exists():
        earlier = Results.read(path)
        if not earlier.complete and (earlier.plan, earlier.commit) == (plan.name, commit):
            return earlier
    return Results(plan.name, commit, describe_machine())


async def run_plan(plan: Plan, names: Sequence[str], path: Path, *, fresh: bool = False) -> Results:
    """Measure until the plan is complete or its time is over."""
    results = open_results(path, plan, fresh=fresh)
    peers, started = select(names or plan.peers), time.monotonic()
    broken = await asyncio.to_thread(_install, peers, results)
    with tempfile.TemporaryDirectory(prefix="flowstate-bench-") as folder:
        async with EmbeddedValkey() as valkey:
            bench = Bench(valkey, Path(folder))
            # Its `redis_version` is the one of Redis with which it is compatible.
            results.versions["valkey"] = (await bench.redis.info("server"))["valkey_version"]
            for number, step, peer in plan.runs(peers):
                if results.has(step.name, peer.name, number):
                    continue
                if time.monotonic() - started > plan.budget_s:
                    _log(f"the time of this plan, {plan.budget_s:.0f} s, is over; the report has what was measured")
                    break
                _log(f"round {number}, {step.name}: {peer.name}")
                results.runs.append(await _run(bench, step, peer, number, broken.get(peer.name, "")))
                if "limit_s" in step.options:
                    results.limits_s[step.name] = step.options["limit_s"]
                results.loads.append(round(os.getloadavg()[0], 2))
                results.write(path)
            else:
                results.complete = True
            await bench.redis.aclose()
    results.write(path)
    return results


def _install(peers: Sequence[Peer], results: Results) -> dict[str, str]:
    """Install the peers; returns why some are not there, by name."""
    broken = {}
    for peer in peers:
        try:
            install(peer)
            results.versions[peer.name] = version(peer)
        except InstallError as error:
            broken[peer.name] = f"not installed: {error}"
    return broken


async def _run(bench: Bench, step: Step, peer: Peer, number: int, broken: str) -> Run:
    if broken:
        return Run(step.name, peer.name, number, error=broken)
    try:
        async with asyncio.timeout(HARD_LIMIT_S):
            figures = await step.measure(bench, peer, **step.options_for(peer))
    except (MeasurementError, AssertionError, RedisError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        _log(f"  failed: {reason}")
        return Run(step.name, peer.name, number, error=reason[:500])
    return Run(step.name, peer.name, number, figures)


def _log(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)

"""The smallest run of the benchmark: one peer, small sizes, from installation to report."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.bench.peers import ROOT, US
from tests.bench.results import Results
from tests.bench.sampling import RENDERING

PEER = "dramatiq"
STEPS = ("drain", "mails-batch", "latency")
OWN_STEPS = ("scripts", "profile-noop", "profile-email")


@pytest.mark.timeout(400)
async def test_the_smallest_benchmark_measures_a_peer_and_writes_a_report(tmp_path: Path) -> None:
    """Every measurement of the daemon and of one peer gives figures, and the page shows both."""
    command = (sys.executable, "-m", "tests.bench", "--plan", "smoke", "--peers", PEER, "--output", str(tmp_path))
    child = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    _, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    results = Results.read(tmp_path / "results.json")
    assert [run.error for run in results.runs if run.error] == []
    assert results.complete
    figures = {(run.step, run.peer): run.figures for run in results.runs}
    assert set(figures) == {(step, peer) for step in STEPS for peer in (US, PEER)} | {(step, US) for step in OWN_STEPS}
    assert all((found["rate"] or 0) > 0 for found in figures.values() if "rate" in found)
    assert all(found["twice"] == 0 for (step, _), found in figures.items() if step == "mails-batch")
    profile = figures["profile-email", US]
    assert (profile[f"part {RENDERING}"] or 0) > 0
    assert (profile["command evalsha"] or 0) > 0
    page = (tmp_path / "performance.md").read_text()
    assert f"| {PEER} |" in page
    assert "Nothing." in page.partition("## What failed")[2]

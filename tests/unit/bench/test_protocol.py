"""What a worker of the benchmark counts and reports."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.bench.peers import ROOT
from tests.bench.protocol import code, jobs

WORKER = """
from tests.bench.protocol import Recorder, code, jobs
recorder = Recorder({mode!r}, {wanted}, {deadline})
backlog = list(jobs("noop", 3))
for job in (backlog[0], code(1), backlog[1], code(2), backlog[2]):
    recorder.begin(job)
    recorder.end(job)
import time
time.sleep(30)
"""


def printed_by(mode: str, wanted: int, deadline_s: float) -> list[dict[str, float]]:
    """What a worker prints that handles three jobs of a backlog with two codes between them, and then nothing."""
    source = WORKER.format(mode=mode, wanted=wanted, deadline=deadline_s)
    text = subprocess.check_output([sys.executable, "-c", source], cwd=ROOT, text=True, timeout=60)
    return [json.loads(line) for line in text.splitlines()]


def test_worker_stops_after_its_jobs() -> None:
    """The worker prints when its first job started, then its result, and ends with the last job that is wanted."""
    first, result = printed_by("noop", 4, 20.0)
    assert list(first) == ["first"]
    assert (result["jobs"], result["bulk"]) == (4, 2)


def test_codes_are_counted_apart() -> None:
    """In mode `code` only codes count; the drain rate is that of the other jobs."""
    _, result = printed_by("code", 2, 20.0)
    assert (result["jobs"], result["bulk"]) == (4, 2)
    assert len(result["waits_ms"]) == 2  # type: ignore[arg-type]
    assert 0 < result["bulk_seconds"] <= result["seconds"]


def test_worker_reports_at_the_deadline() -> None:
    """A worker that cannot finish reports what it has done by the deadline."""
    _, result = printed_by("noop", 100, 0.2)
    assert (result["jobs"], result["bulk"]) == (5, 3)


def test_jobs_of_a_backlog_differ() -> None:
    """Every email of a backlog has its own recipient, so that none can be taken for another; codes carry their time."""
    backlog = list(jobs("batch", 100))
    assert len({job["to"] for job in backlog}) == 100
    assert all("at" not in job for job in backlog)
    assert code(7)["at"] > 0

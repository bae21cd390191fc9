"""Describes a plan, and what happened to one email: from the producer, the log, the ledger and the provider."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.history import History
from tests.chaos.invariants import Violation
from tests.chaos.plan import Plan
from tests.chaos.round import log_lines

MAX_LINES = 60
HIDDEN = ("remedy", "version")


def describe_plan(plan: Plan) -> Iterator[str]:
    """The plan, one fault a line."""
    bull = ", npm bull's worker beside them" if plan.bull else ""
    yield f"seed {plan.seed}: Redis {plan.redis}, {plan.daemons} daemon(s){bull}, {plan.seconds:g} s"
    for fault in plan.faults:
        target = "" if fault.target < 0 else f" daemon {fault.target}"
        yield f"  {fault.at_s:6.1f} s  {fault.kind}{target}, for {fault.lasts_s:g} s, size {fault.size:g}"


def describe_violation(violation: Violation, history: History, folder: Path) -> Iterator[str]:
    """Everything that mentions the email of a violation."""
    if violation.to is None:
        return
    sources: dict[str, Sequence[Any]] = {
        "produced": history.produced,
        "provider": history.accepted,
        "ledger": history.ledger,
        "queue": history.failed,
        "schedule": history.scheduled,
    }
    jobs: set[str] = set()
    keys: set[str] = set()
    for name, rows in sources.items():
        for row in rows:
            if row.to == violation.to:
                yield f"  {name}: {row}"
                jobs |= {getattr(row, "job_id", None) or ""}
                keys |= {getattr(row, "key", None) or ""}
    for job_id in sorted(jobs & set(history.taken_by_bull)):
        yield f"  taken by the Bull worker: job {job_id}"
    yield from _log(log_lines(folder), jobs - {""}, keys - {""})


def _log(lines: Sequence[dict[str, Any]], jobs: set[str], keys: set[str]) -> Iterator[str]:
    found = [line for line in lines if line.get("job_id") in jobs or line.get("key") in keys]
    for line in found[:MAX_LINES]:
        rest = " ".join(f"{name}={value}" for name, value in line.items() if name not in HIDDEN)
        yield f"  log: {rest}"

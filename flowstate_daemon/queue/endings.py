"""Ends of runs on their way into `finish.lua`, `retry.lua`, `fail.lua` and `release.lua`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from flowstate_daemon.queue.job import Failed, Finished, Job, Retention, Retried, Settled
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.writing import LATEST_MS, clean_text, ended_event

# Bull's codes.
SETTLED = {0: Settled.OK, -1: Settled.GONE, -2: Settled.LOST, -3: Settled.MISPLACED, -6: Settled.LOST}

Argument = str | bytes | int | float


def finish_args(endings: Sequence[Finished]) -> Iterable[Argument]:
    for ending in endings:
        job = ending.job
        yield job.id
        yield job.timestamp
        yield from _kept(job.options.remove_on_complete)
        yield ending.returnvalue
        yield ended_event(job.id, ending.returnvalue.decode())
        yield ending.journal
        yield ending.data


def retry_args(endings: Sequence[Retried], now_ms: int) -> Iterable[Argument]:
    for ending in endings:
        job, reason = ending.job, clean_text(ending.reason)
        due_ms = due_at(now_ms, ending.delay_ms)
        then = f"next one at {_instant(due_ms)}" if due_ms else "next one at once"
        yield from (job.id, job.timestamp, due_ms, low_bits(job.id), job.attempt, reason, ending.stacktrace)
        yield "lifo" if job.options.lifo else "back"
        yield f"{_outset(job)}: {reason}; {then}"
        yield ending.journal


def fail_args(endings: Sequence[Failed]) -> Iterable[Argument]:
    for ending in endings:
        job, reason = ending.job, clean_text(ending.reason)
        yield job.id
        yield job.timestamp
        yield from _kept(job.options.remove_on_fail)
        yield from (job.attempt, reason, ending.stacktrace, ended_event(job.id, reason))
        yield f"{_outset(job)}: {reason}; no further one"
        yield ending.journal
        yield ending.data


def release_args(jobs: Sequence[Job]) -> Iterable[Argument]:
    for job in jobs:
        yield from (job.id, job.timestamp, low_bits(job.id))


def job_keys(keys: Keys, jobs: Iterable[Job], *, logs: bool = True) -> list[str]:
    """Hash, lock and, where it is written to, log of each job."""
    base, names = keys.base, []
    for job in jobs:
        own = f"{base}{job.id}"
        names.append(own)
        names.append(f"{own}:lock")
        if logs:
            names.append(f"{own}:logs")
    return names


def read_codes(codes: Sequence[int]) -> list[Settled]:
    return [SETTLED[code] for code in codes]


def due_at(now_ms: int, delay_ms: int) -> int:
    """When a job is due again; 0 stands for at once."""
    return min(now_ms + delay_ms, LATEST_MS) if delay_ms > 0 else 0


def low_bits(job_id: str) -> int:
    """What orders jobs that are due in the same millisecond; Bull takes the id, where it is a number."""
    # The last twelve bits stand in the last twelve digits: 2^12 divides 10^12, and Python reads no endless number.
    return int(job_id[-12:]) & 0xFFF if job_id.isascii() and job_id.isdecimal() else 0


def _kept(policy: Retention) -> tuple[Argument, Argument]:
    return "" if policy.count is None else policy.count, "" if policy.age_s is None else policy.age_s


def _outset(job: Job) -> str:
    return f"attempt {job.attempt} of {max(job.options.attempts, job.attempt)} failed"


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds")

"""New jobs on their way into `add.lua`: what Bull's own producers compute before their script runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowstate_daemon.base.errors import Malformed
from flowstate_daemon.queue.job import Added, NewJob, Outcome
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.writing import check_new, write_data, write_options

OUTCOMES: tuple[Outcome, ...] = ("added", "duplicated", "debounced")

Argument = str | bytes | int


def add_call(jobs: Sequence[NewJob], keys: Keys, now_ms: int, max_data_bytes: int) -> tuple[list[str], list[Argument]]:
    """The jobs' own keys and arguments. Raises Malformed."""
    names: list[str] = []
    args: list[Argument] = []
    for job in jobs:
        if job.job_id is not None:
            names.append(keys.job(job.job_id))
        if job.debounce_id is not None:
            names.append(keys(f"de:{job.debounce_id}"))
        args += _arguments(job, now_ms, max_data_bytes)
    return names, args


def _arguments(job: NewJob, now_ms: int, max_data_bytes: int) -> tuple[Argument, ...]:
    timestamp = now_ms if job.timestamp is None else job.timestamp
    check_new(job, timestamp)
    data = write_data(job.data)
    if len(data) > max_data_bytes:
        raise Malformed(f"the data has {len(data)} bytes, more than the {max_data_bytes} that a worker reads")
    return (
        job.job_id or "",
        job.name,
        data,
        write_options(job, timestamp),
        timestamp,
        job.delay_ms,
        timestamp + job.delay_ms if job.delay_ms else 0,
        job.priority,
        "lifo" if job.lifo else "back",
        job.debounce_id or "",
        "" if job.debounce_ms is None else job.debounce_ms,
    )


def read_added(answer: Sequence[Any]) -> list[Added]:
    """One Added for each job, in their order."""
    return [
        Added(job_id.decode("utf-8", "replace"), OUTCOMES[outcome])
        for job_id, outcome in zip(answer[::2], answer[1::2], strict=True)
    ]

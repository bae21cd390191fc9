"""Encoding of jobs, options and events as npm `bull` writes them, in strict JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import msgspec

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.job import KEEP, MAX_SAFE_INTEGER, REMOVE, AddOutcome, AddResult, Backoff, NewJob, Retention
from flowstate_daemon.redis_client.keys import Keys, is_valid_job_id

PLAIN = frozenset({str, bool, NoneType})
NUMBERS, OBJECTS, LISTS = (int, float), (dict, Mapping), (list, tuple)
LATEST_MS = 2**41 - 1  # in 2039; a later due time is not an exact score in `delayed`


def encode_json(value: Any, *, what: str = "data") -> bytes:
    """JSON text that node decodes to the same value. Raises InvalidDataError."""
    try:
        _check(value, what)
        return msgspec.json.encode(value)
    except RecursionError as error:
        raise InvalidDataError(f"the {what} is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise InvalidDataError(f"the {what} contains half a surrogate pair, which is not valid text") from error


def _check(value: Any, what: str) -> None:
    """Called for every value of every job, so the most frequent types are checked first, with the fastest test."""
    if type(value) in PLAIN:
        return
    if isinstance(value, NUMBERS):
        _check_number(value, what)
    elif isinstance(value, OBJECTS):
        for name, part in value.items():
            if not isinstance(name, str):
                raise InvalidDataError(f"the {what} contains a member whose name is not a string")
            if type(part) not in PLAIN:
                _check(part, what)
    elif isinstance(value, LISTS):
        for part in value:
            _check(part, what)
    elif not isinstance(value, str):
        raise InvalidDataError(f"the {what} contains a {type(value).__name__}, which JSON cannot represent")


def _check_number(value: float, what: str) -> None:
    if isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise InvalidDataError(f"the {what} contains an integer beyond 2^53, which node cannot represent exactly")
    elif not math.isfinite(value):
        raise InvalidDataError(f"the {what} contains a number that JSON cannot represent (NaN or infinite)")


def encode_data(value: Any) -> bytes:
    """A job's data; a falsy value in JavaScript is stored as an empty object, as in Bull."""
    empty = value is None or value is False or value == "" or (isinstance(value, int | float) and value == 0)
    return b"{}" if empty else encode_json(value)


def encode_options(job: NewJob, timestamp: int) -> bytes:
    """A job's `opts`, with the members in the order of Bull's producers."""
    opts: dict[str, Any] = {
        "attempts": job.attempts,
        "backoff": _backoff(job.backoff),
        "removeOnComplete": _retention(job.remove_on_complete),
        "removeOnFail": _retention(job.remove_on_fail),
        "priority": job.priority or None,
        "jobId": job.job_id,
        "timeout": job.timeout_ms,
        "lifo": job.lifo or None,
        "stackTraceLimit": job.stack_trace_limit,
        "debounce": _debounce(job),
        "delay": job.delay_ms,
        "timestamp": timestamp,
    }
    return encode_json({name: value for name, value in opts.items() if value is not None}, what="options")


def _backoff(backoff: Backoff | None) -> dict[str, Any] | None:
    return None if backoff is None else {"type": backoff.kind, "delay": backoff.delay_ms}


def _retention(policy: Retention) -> Any:
    if policy in (KEEP, REMOVE):
        return policy == REMOVE
    if policy.age_s is None:
        return policy.count
    return {"age": policy.age_s} if policy.count is None else {"age": policy.age_s, "count": policy.count}


def _debounce(job: NewJob) -> dict[str, Any] | None:
    if job.debounce_id is None:
        return None
    return {"id": job.debounce_id} if job.debounce_ms is None else {"id": job.debounce_id, "ttl": job.debounce_ms}


def validate_new_job(job: NewJob, timestamp: int) -> None:
    """Reject jobs that would break the queue or could never run. Raises InvalidDataError."""
    if job.job_id is not None and not is_valid_job_id(job.job_id):
        raise InvalidDataError("the job id is empty, or the name of a key of the queue")
    if not 0 <= job.priority <= MAX_SAFE_INTEGER:
        raise InvalidDataError("the priority is negative or too large; 1 is the most urgent, 0 is none")
    if job.delay_ms < 0 or not 0 < timestamp + job.delay_ms <= LATEST_MS:
        raise InvalidDataError("the delay is negative, or ends after the year 2038")
    if job.attempts < 1:
        raise InvalidDataError("a job needs at least one attempt")
    if job.debounce_id == "" or (job.debounce_ms is not None and job.debounce_ms < 1):
        raise InvalidDataError("a debounce needs an id, and a time of at least one millisecond")


def finished_event(job_id: str, val: str) -> bytes:
    """The payload of `completed` and `failed`. A node listener that cannot parse it crashes its process."""
    return msgspec.json.encode({"jobId": job_id, "val": val})


def progress_event(job_id: str, progress: bytes) -> bytes:
    return msgspec.json.encode({"jobId": job_id, "progress": msgspec.Raw(progress)})


def clean_text(text: str) -> str:
    """The text with characters replaced that UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


ADD_OUTCOMES: tuple[AddOutcome, ...] = ("added", "duplicated", "debounced")

Argument = str | bytes | int


def add_args(jobs: Sequence[NewJob], keys: Keys, now_ms: int, max_data_bytes: int) -> tuple[list[str], list[Argument]]:
    """The keys and arguments of the jobs for `add.lua`. Raises InvalidDataError."""
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
    validate_new_job(job, timestamp)
    data = encode_data(job.data)
    if len(data) > max_data_bytes:
        raise InvalidDataError(f"the data has {len(data)} bytes, more than the maximum of {max_data_bytes}")
    return (
        job.job_id or "",
        job.name,
        data,
        encode_options(job, timestamp),
        timestamp,
        job.delay_ms,
        timestamp + job.delay_ms if job.delay_ms else 0,
        job.priority,
        "lifo" if job.lifo else "back",
        job.debounce_id or "",
        "" if job.debounce_ms is None else job.debounce_ms,
    )


def decode_added(reply: Sequence[Any]) -> list[AddResult]:
    """The result of each job, in order."""
    return [
        AddResult(job_id.decode("utf-8", "replace"), ADD_OUTCOMES[outcome])
        for job_id, outcome in zip(reply[::2], reply[1::2], strict=True)
    ]

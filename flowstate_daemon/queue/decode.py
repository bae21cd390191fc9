"""Jobs out of what stands in Redis: the options of any producer, the fields that a claim returns. Pure.

Reading never raises. Where Bull shrugs (a missing delay, attempts as text) so do we; what no worker could follow
becomes a problem in words, and the job fails with it at its first try. Nothing of the data is repeated there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.job import DEFAULTS, KEEP, REMOVE, Backoff, Job, JobOptions, Retention, decode_json

STAMP = b'"timestamp":'
DIGITS = 13  # of a time in ms, until the year 2286
MAX_CACHED_LENGTH = 1024
DEFAULT_NAME = "__default__"  # Bull's word

Row = Sequence[Any]
"""name, data, opts, timestamp, attemptsMade, priority, stacktrace, envelope, id and, of data too long, its length."""


class _Opts(msgspec.Struct, rename="camel"):
    """The members that we look at, of whatever type they are."""

    attempts: Any = None
    backoff: Any = None
    remove_on_complete: Any = None
    remove_on_fail: Any = None
    timeout: Any = None
    lifo: Any = None
    stack_trace_limit: Any = None
    repeat: Any = None


_OPTS = msgspec.json.Decoder(_Opts)


def decode_job(row: Row, max_data_bytes: int) -> Job:
    """The job that a claim has returned."""
    name, data, opts, timestamp, made, priority, stacktrace, stored_request, job_id = row[:9]
    options, problem = decode_options(opts)
    if len(row) > 9:  # noqa: PLR2004 - the tenth is the length of data that was left behind
        problem = f"the job's data has {row[9]} bytes, more than the {max_data_bytes} that are read"
    return Job(
        job_id.decode("utf-8", "replace"),
        DEFAULT_NAME if name is None else name.decode("utf-8", "replace"),
        data or b"{}",
        options,
        _instant(timestamp),
        max(_instant(made), 0),  # fewer than none would be tried again nearly for ever
        _instant(priority),
        stacktrace or b"[]",
        problem,
        stored_request.decode("ascii", "replace") if stored_request else None,
    )


def decode_options(text: bytes | None) -> tuple[JobOptions, str | None]:
    """Options, and what is wrong with them. Texts that differ in nothing but their time are parsed once."""
    if not text:
        return DEFAULTS, None
    if len(text) <= MAX_CACHED_LENGTH and b'"repeat"' not in text:
        # A quote inside JSON text is escaped, so this can only be a member's name.
        before, found, after = text.partition(STAMP)
        if found and after[:DIGITS].isdigit() and after[0] != ord("0") and after[DIGITS : DIGITS + 1] in b",}":
            return _parsed(before + b'"timestamp":0' + after[DIGITS:])
    return _read_options(text)


def _read_options(text: bytes) -> tuple[JobOptions, str | None]:
    try:
        opts = _OPTS.decode(text)
        raw = decode_json(text, what="options") if opts.repeat else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return DEFAULTS, _problem(text)
    except InvalidDataError as malformed:
        return DEFAULTS, malformed.reason
    timeout_ms, problem = _timeout(opts.timeout)
    limit = _number(opts.stack_trace_limit)
    options = JobOptions(
        attempts=_attempts(opts.attempts),
        backoff=_backoff(opts.backoff),
        remove_on_complete=decode_retention(opts.remove_on_complete),
        remove_on_fail=decode_retention(opts.remove_on_fail),
        timeout_ms=timeout_ms,
        lifo=bool(opts.lifo),
        stack_trace_limit=int(limit) if limit is not None and limit >= 1 else None,
        repeat=opts.repeat if isinstance(opts.repeat, dict) and opts.repeat else None,
        raw=raw,
    )
    return options, problem


_parsed = lru_cache(maxsize=256)(_read_options)


def _problem(text: bytes) -> str:
    """Why the options cannot be read, in words."""
    try:
        parsed = decode_json(text, what="options")
    except InvalidDataError as malformed:
        return malformed.reason
    return f"the job's options are a JSON {type(parsed).__name__}, not an object"


def _instant(text: bytes | None) -> int:
    """A whole number from a hash field; 0 for anything else."""
    if text is None:
        return 0
    try:
        return int(text)
    except ValueError:
        number = _number(text.decode("ascii", "replace"))
    return 0 if number is None else int(number)


def _number(value: Any) -> float | None:
    """A finite number, also from text, as JavaScript's arithmetic reads it; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _attempts(value: Any) -> int:
    """All tries; whatever is no number means one run, as Bull's comparison comes out."""
    number = _number(value)
    return 1 if number is None else max(1, math.ceil(min(number, 1e9)))


def _backoff(value: Any) -> Backoff | None:
    if not value:
        return None
    number = None if isinstance(value, str) else _number(value)
    if number is not None:
        return Backoff("fixed", number)
    if not isinstance(value, dict):
        return Backoff(type(value).__name__, 0)
    kind = value.get("type")
    return Backoff(kind if isinstance(kind, str) else "none", _number(value.get("delay")) or 0)


def _timeout(value: Any) -> tuple[int | None, str | None]:
    if not value:
        return None, None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None, "the job's option timeout is not a positive number of milliseconds"
    number = _number(value)
    return None if number is None else math.ceil(number), None


def decode_retention(value: Any) -> Retention:
    """What to keep of the ended, from any form that Bull takes; null, with which Bull loses the job, keeps all."""
    if isinstance(value, dict):
        count, age = _number(value.get("count")), _number(value.get("age"))
    elif isinstance(value, bool | str):
        return REMOVE if value else KEEP
    else:
        count, age = _number(value), None
    limit = None if count is None or count < 0 else math.ceil(count)
    return KEEP if limit is None and age is None else Retention(limit, age)

"""Decoding of jobs from Redis: the options of any producer, the fields that a claim returns. Pure.

Decoding a job never raises. What Bull tolerates (a missing delay, attempts as text) is accepted. What no worker could
process becomes the job's `invalid_reason`, which contains none of its data: the job fails with it at the first attempt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.lenient_json import repair_json
from flowstate_daemon.queue.job import DEFAULTS, KEEP, REMOVE, Backoff, Job, JobOptions, Retention, decode_json

STAMP = b'"timestamp":'
DIGITS = 13  # of a Unix time in ms, until the year 2286
MAX_CACHED_LENGTH = 1024
DIGIT_SEPARATOR = b"_"  # in numbers of Python; in Lua and JavaScript such a text is no number
DEFAULT_NAME = "__default__"  # as in Bull

Row = Sequence[Any]
"""name, data, opts, timestamp, attemptsMade, priority, stacktrace, storedRequest, requests, id,
[length of too long data]."""


class _Opts(msgspec.Struct, rename="camel"):
    """The members that are used, of any type."""

    attempts: Any = None
    backoff: Any = None
    remove_on_complete: Any = None
    remove_on_fail: Any = None
    timeout: Any = None
    lifo: Any = None
    delay: Any = None
    stack_trace_limit: Any = None
    repeat: Any = None


_OPTS = msgspec.json.Decoder(_Opts)


def decode_job(row: Row, max_data_bytes: int) -> Job:
    """The job in one row of a claim's reply."""
    name, data, opts, timestamp, made, priority, stacktrace, stored_request, requests, job_id = row[:10]
    options, invalid_reason = decode_options(opts)
    if len(row) > 10:  # noqa: PLR2004 - the eleventh is the length of data that was not returned
        invalid_reason = f"the job's data has {row[10]} bytes, more than the maximum of {max_data_bytes}"
    return Job(
        job_id.decode("utf-8", "replace"),
        DEFAULT_NAME if name is None else name.decode("utf-8", "replace"),
        data or b"{}",
        options,
        _integer(timestamp),
        max(_integer(made), 0),  # with a negative number it would be attempted almost for ever
        _integer(priority),
        stacktrace or b"[]",
        invalid_reason,
        stored_request.decode("ascii", "replace") if stored_request else None,
        max(_integer(requests), 0),
    )


def decode_options(text: bytes | None) -> tuple[JobOptions, str | None]:
    """The options, and why they are invalid. Texts that differ only in the timestamp are parsed once."""
    if not text:
        return DEFAULTS, None
    if len(text) <= MAX_CACHED_LENGTH and b'"repeat"' not in text:
        # A quote inside a JSON string is escaped, so this can only be the name of a member.
        start = text.find(STAMP) + len(STAMP)
        end = start + DIGITS
        digits = text[start:end]
        if start >= len(STAMP) and digits.isdigit() and digits[0] != ord("0") and text[end : end + 1] in b",}":
            return _parse_cached(text[:start] + b"0" + text[end:])
    return _parse_options(text)


def _parse_options(text: bytes) -> tuple[JobOptions, str | None]:
    try:
        return _read_options(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # half an emoji in a member that is not read must not refuse the job
        return _read_options(repair_json(text))
    except (ValueError, RecursionError):
        return DEFAULTS, _invalid_reason(text)


def _read_options(text: bytes) -> tuple[JobOptions, str | None]:
    try:
        opts = _OPTS.decode(text)
        raw = decode_json(text, what="options") if opts.repeat else {}
    except InvalidDataError as error:
        return DEFAULTS, error.reason
    timeout_ms, invalid_reason = _timeout(opts.timeout)
    limit = _number(opts.stack_trace_limit)
    options = JobOptions(
        attempts=_attempts(opts.attempts),
        backoff=_backoff(opts.backoff),
        remove_on_complete=decode_retention(opts.remove_on_complete),
        remove_on_fail=decode_retention(opts.remove_on_fail),
        timeout_ms=timeout_ms,
        lifo=bool(opts.lifo),
        delayed=bool(opts.delay),
        stack_trace_limit=int(limit) if limit is not None and limit >= 1 else None,
        repeat=opts.repeat if isinstance(opts.repeat, dict) and opts.repeat else None,
        raw=raw,
    )
    return options, invalid_reason


_parse_cached = lru_cache(maxsize=256)(_parse_options)


def _invalid_reason(text: bytes) -> str:
    """Why the options cannot be parsed."""
    try:
        parsed = decode_json(text, what="options")
    except InvalidDataError as error:
        return error.reason
    return f"the job's options are a JSON {type(parsed).__name__}, not an object"


def _integer(text: bytes | None) -> int:
    """An integer from a hash field; 0 for anything else."""
    if text is None:
        return 0
    if DIGIT_SEPARATOR in text:
        return 0
    try:
        return int(text)
    except ValueError:
        number = _number(text.decode("ascii", "replace"))
    return 0 if number is None else int(number)


def _number(value: Any) -> float | None:
    """A finite number, also from text as in JavaScript; None for anything else."""
    if isinstance(value, str):
        if DIGIT_SEPARATOR.decode() in value:
            return None
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
    """The maximum number of attempts; anything that is not a number means one, as in Bull's comparison."""
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
    """The retention of finished jobs, from any form that Bull accepts; null keeps all (Bull loses the job)."""
    if isinstance(value, dict):
        count, age = _number(value.get("count")), _number(value.get("age"))
    elif isinstance(value, bool | str):
        return REMOVE if value else KEEP
    else:
        count, age = _number(value), None
    limit = None if count is None or count < 0 else math.ceil(count)
    return KEEP if limit is None and age is None else Retention(limit, age)

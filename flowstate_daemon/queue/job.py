"""A Bull 4 job, its options, and the arguments and results of the transitions. Plain data.

`decode` builds jobs from Redis, `encode` does the reverse. A job of another producer may be invalid; the reason is in
`Job.invalid_reason`, and decoding raises no exception. What is made for each job is a struct: a frozen dataclass takes
fifteen times as long to make.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, get_args

import msgspec

from flowstate_daemon.base.errors import InvalidDataError

# Unix times of the years 1973 to 5138 in seconds, milliseconds, microseconds and nanoseconds do not overlap.
MIN_MS, MAX_MS = 10**11, 10**14
TIME_UNITS = ((10**8, MIN_MS, 1_000, 1), (MAX_MS, 10**17, 1, 1_000), (10**17, 10**20, 1, 10**6))
MAX_SAFE_INTEGER = 2**53 - 1  # node cannot represent larger integers exactly
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

State = Literal["wait", "active", "delayed", "paused", "completed", "failed"]
STATES: tuple[State, ...] = get_args(State)
STATES_SCORED_BY_END: tuple[State, ...] = ("completed", "failed")  # zsets whose scores are finish times
AddOutcome = Literal["added", "duplicated", "debounced"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay between attempts: `fixed` or `exponential` (base x 2^(n-1))."""

    kind: str
    delay_ms: float


@dataclass(frozen=True, slots=True)
class Retention:
    """Which finished jobs are kept: the newest `count`, and none older than `age_s` seconds. None sets no limit.

    `count` 0 removes the job as soon as it finishes, like Bull's `true`.
    """

    count: int | None = None
    age_s: float | None = None


KEEP = Retention()
REMOVE = Retention(count=0)


@dataclass(frozen=True, slots=True)
class JobOptions:
    """The members of a job's `opts` that a worker uses; Bull's defaults where a member is absent.

    `raw` contains all members, but only for repeatable jobs: the next job inherits the unknown ones.
    """

    attempts: int = 1
    backoff: Backoff | None = None
    remove_on_complete: Retention = KEEP
    remove_on_fail: Retention = KEEP
    timeout_ms: int | None = None
    lifo: bool = False
    delayed: bool = False
    stack_trace_limit: int | None = None
    repeat: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


DEFAULTS = JobOptions()


class Job(msgspec.Struct, frozen=True):
    """One claimed job. `data` and `stacktrace` are the JSON texts of the hash; `timestamp` is part of its identity.

    `stored_request_id` is that of the stored request of an earlier attempt, if there is one. `requests` is
    how many requests have contained this email, as far as Redis knows.
    """

    id: str
    name: str
    data: bytes
    options: JobOptions
    timestamp: int
    attempts_made: int
    priority: int
    stacktrace: bytes
    invalid_reason: str | None = None
    stored_request_id: str | None = None
    requests: int = 0
    estimated_ms: int | None = None

    @property
    def created_ms(self) -> int:
        """When the job was added, Unix ms; 0 if that is unknown. `creation_times` corrects what the producer wrote."""
        return unix_ms(self.timestamp) if self.estimated_ms is None else self.estimated_ms

    @property
    def attempt(self) -> int:
        """The number of the current attempt, counted from 1."""
        return self.attempts_made + 1

    @property
    def timestamp_ms(self) -> int:
        """What the producer's clock showed, Unix ms; 0 if that is unknown. Producers also write other units."""
        return unix_ms(self.timestamp)

    def payload(self) -> Any:
        """The job's data, parsed. Raises InvalidDataError."""
        return decode_json(self.data, what="data")


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to add. `priority` 0 is none, 1 the most urgent; `timestamp` is now unless given.

    A second job with the same `job_id` is not added. A second job with the same `debounce_id` is not added while the
    first one exists or, with `debounce_ms`, until that time has passed.
    """

    name: str
    data: Any
    priority: int = 0
    delay_ms: int = 0
    attempts: int = 1
    backoff: Backoff | None = None
    remove_on_complete: Retention = KEEP
    remove_on_fail: Retention = KEEP
    job_id: str | None = None
    timestamp: int | None = None
    timeout_ms: int | None = None
    lifo: bool = False
    stack_trace_limit: int | None = None
    debounce_id: str | None = None
    debounce_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AddResult:
    """The id of the new job, or of the existing one that made it unnecessary."""

    id: str
    outcome: AddOutcome = "added"


class JobSucceeded(msgspec.Struct, frozen=True):
    """A successful run. `returnvalue` is JSON text, as is `journal`, the outcome for the ledger (empty for none).

    `data`, JSON, replaces the job's data if the job is kept, because that contains a secret. Empty: the data stays.
    """

    job: Job
    returnvalue: bytes = b"null"
    journal: bytes = b""
    data: bytes = b""


class JobRetried(msgspec.Struct, frozen=True):
    """A failed attempt; the next one follows after `delay_ms`. `stacktrace` is the job's whole JSON array."""

    job: Job
    reason: str
    stacktrace: bytes
    delay_ms: int = 0
    journal: bytes = b""


class JobFailed(msgspec.Struct, frozen=True):
    """A failed last attempt. `stacktrace` is the job's whole JSON array; `data` as in `JobSucceeded`.

    If the email may have been sent, `requests` is how many requests have contained it: a person who retries the job
    decides about all of them.
    """

    job: Job
    reason: str
    stacktrace: bytes
    journal: bytes = b""
    data: bytes = b""
    requests: int = 0


class WriteResult(Enum):
    """The result of writing a transition. Only OK has changed the job."""

    OK = "written"
    JOB_NOT_FOUND = "the job was removed"
    LOCK_LOST = "the lock expired or is held by another worker"
    NOT_ACTIVE = "the job was moved out of `active`"


@dataclass(frozen=True, slots=True)
class PromoteResult:
    """The number of due jobs that became ready, and when the next one is due."""

    moved: int
    next_due_ms: int | None


@dataclass(frozen=True, slots=True)
class StalledResult:
    """The ids that a stalled check requeued or failed; empty when another worker has checked within the interval."""

    requeued: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """The ids of recovered jobs of this instance: requeued at the front, or failed after too many recoveries."""

    requeued: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def unix_ms(time: int) -> int:
    """A Unix time in any unit, in ms; 0 if it is none. Pure."""
    if MIN_MS <= time < MAX_MS:
        return time
    for low, high, factor, divisor in TIME_UNITS:
        if low <= time < high:
            return time * factor // divisor
    return 0


def decode_json(text: bytes, *, what: str) -> Any:
    """Parse untrusted JSON. Raises InvalidDataError, whose reason does not contain the text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDataError(f"the job's {what} {_invalid_reason(text, error)}") from error


def _invalid_reason(text: bytes, error: Exception) -> str:
    if SURROGATE_ESCAPE.search(text) and _is_valid_in_node(text):
        return "contains half a surrogate pair, for example a truncated emoji"
    return f"is not valid JSON: {error}"


def _is_valid_in_node(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True

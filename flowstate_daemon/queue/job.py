"""A job in Bull 4's sense, and what travels between the queue and those who use it: all plain data.

`reading` makes these from what stands in Redis, `writing` the reverse. What is wrong with a job that somebody
else wrote stands in `Job.problem`; nobody has to expect an exception from a job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import msgspec

from flowstate_daemon.base.errors import InvalidDataError

MAX_SAFE_INTEGER = 2**53 - 1  # beyond this, node reads another number than we wrote
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

State = Literal["wait", "active", "delayed", "paused", "completed", "failed"]
Outcome = Literal["added", "duplicated", "debounced"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between tries: `fixed` or `exponential` (base x 2^(n-1))."""

    kind: str
    delay_ms: float


@dataclass(frozen=True, slots=True)
class Retention:
    """What stays of an ended job: all but the newest `count` go, and all older than `age_s` seconds.

    `count` 0 removes the job itself at once, as Bull's `true` does; None sets no limit.
    """

    count: int | None = None
    age_s: float | None = None


KEEP = Retention()
REMOVE = Retention(count=0)


@dataclass(frozen=True, slots=True)
class JobOptions:
    """The members of a job's `opts` that a worker honours; Bull's defaults where a member is absent.

    `raw` is the whole of it, but only for repeatable jobs, whose successor inherits what we do not know.
    """

    attempts: int = 1
    backoff: Backoff | None = None
    remove_on_complete: Retention = KEEP
    remove_on_fail: Retention = KEEP
    timeout_ms: int | None = None
    lifo: bool = False
    stack_trace_limit: int | None = None
    repeat: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


DEFAULTS = JobOptions()


@dataclass(frozen=True, slots=True)
class Job:
    """One claimed job. Instants are Unix ms; `data` and `stacktrace` are the JSON texts found in the hash.

    `envelope` names the sealed request that an earlier try has left behind.
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

    @property
    def attempt(self) -> int:
        """The number of the try under way, counted from 1."""
        return self.attempts_made + 1

    def payload(self) -> Any:
        """The job's data, parsed. Raises Malformed."""
        return decode_json(self.data, what="data")


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be added. `priority` 0 is none, 1 the most urgent; `timestamp` is now unless given.

    A second job with the same `job_id` is not added, nor one with the same `debounce_id` while the first lives or,
    with `debounce_ms`, until that time is over.
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
    """The id of the job that now does the work: a new one, or the one that was there already."""

    id: str
    outcome: Outcome = "added"


@dataclass(frozen=True, slots=True)
class JobSucceeded:
    """A run that succeeded; `returnvalue` is JSON text, as is `journal`, the outcome for the ledger, empty for none.

    `data`, JSON, takes the place of the job's own where the job is kept: what it says must not stay. Empty: it stays.
    """

    job: Job
    returnvalue: bytes = b"null"
    journal: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class JobRetried:
    """A failed attempt that another one follows, after `delay_ms`; `stacktrace` is the job's whole JSON array."""

    job: Job
    reason: str
    stacktrace: bytes
    delay_ms: int = 0
    journal: bytes = b""


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A failed attempt that none follows; `stacktrace` is the job's whole JSON array, `data` as in `Finished`."""

    job: Job
    reason: str
    stacktrace: bytes
    journal: bytes = b""
    data: bytes = b""


class WriteResult(Enum):
    """What became of the wish to write an ending down. Only OK has changed the job."""

    OK = "written"
    JOB_NOT_FOUND = "the job was removed meanwhile"
    LOCK_LOST = "the lock ran out or is another worker's"
    NOT_ACTIVE = "the job was moved out of `active` meanwhile"


@dataclass(frozen=True, slots=True)
class PromoteResult:
    """How many due jobs became ready, and when the next one is due."""

    moved: int
    next_due_ms: int | None


@dataclass(frozen=True, slots=True)
class StalledResult:
    """What a stalled check found; empty when another worker has checked within the interval."""

    requeued: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """Jobs of this instance that nobody ran any more: back at the front of the queue, or given up."""

    requeued: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def decode_json(text: bytes, *, what: str) -> Any:
    """Parse JSON that a stranger wrote. Raises Malformed with a reason that does not repeat the text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDataError(f"the job's {what} {_fault(text, error)}") from error


def _fault(text: bytes, error: Exception) -> str:
    if SURROGATE_ESCAPE.search(text) and _is_json_to_node(text):
        return "holds half a surrogate pair, such as an emoji cut in two"
    return f"is not valid JSON: {error}"


def _is_json_to_node(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True

"""A job as Bull 4 writes it: its options, its hash, and how both are read without trusting them.

Reading never raises: what is wrong with a job stands in `Job.problem`, and the sender fails the job with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from flowstate_daemon.base.errors import Malformed

MAX_SAFE_INTEGER = 2**53 - 1  # beyond this, node reads another number than we wrote

State = Literal["wait", "active", "delayed", "paused", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between tries: `fixed` or `exponential` (base × 2^(n-1))."""

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
    """The members of a job's `opts` that a worker honours; Bull's defaults where a member is absent."""

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
    """One claimed job. Instants are Unix ms; `data` and `stacktrace` are the JSON texts found in the hash."""

    id: str
    name: str
    data: bytes
    options: JobOptions
    timestamp: int
    attempts_made: int
    priority: int
    stacktrace: bytes
    problem: str | None = None

    @property
    def attempt(self) -> int:
        """The number of the try under way, counted from 1."""
        return self.attempts_made + 1

    def payload(self) -> Any:
        """The job's data, parsed. Raises Malformed."""
        return read_json(self.data, what="data")


def read_json(text: bytes, *, what: str) -> Any:
    """Parse JSON that a stranger wrote. Raises Malformed with a reason that does not repeat the text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the job's {what} is not valid JSON: {error}") from error

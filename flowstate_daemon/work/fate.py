"""What becomes of a run: from what the sender returned or raised to what is written down. Pure."""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from flowstate_daemon.base.errors import (
    Expired,
    Final,
    FlowstateError,
    InProgress,
    LaneClosed,
    Outage,
    Outdated,
    QuotaExhausted,
    Retry,
    Skip,
    Throttled,
)
from flowstate_daemon.queue.backoff import next_delay_ms
from flowstate_daemon.queue.job import Failed, Finished, Job, Retried

LONGEST_REASON = 2_000
LONGEST_TRACE = 8_000


@dataclass(frozen=True, slots=True)
class Released:
    """The run was no attempt: the job goes back to the front of its queue as it was."""

    job: Job


Ending: TypeAlias = Finished | Retried | Failed | Released


@dataclass(frozen=True, slots=True)
class RetryRules:
    """The daemon's own part in a retry; everything else stands in the job's options."""

    jitter: float = 0.0


def finished(job: Job, result: Any) -> Ending:
    """The ending of a run that returned. A result that JSON cannot hold is replaced by null, never lost."""
    try:
        return Finished(job, msgspec.json.encode(result))
    except (TypeError, UnicodeEncodeError, msgspec.MsgspecError):
        return Finished(job, b"null")


def ended_by(job: Job, error: BaseException, rules: RetryRules, rng: random.Random) -> Ending:
    """The ending of a run that raised."""
    match error:
        case Expired():
            return finished(job, {"expired": error.reason})
        case Skip():
            return finished(job, {"skipped": error.reason})
        case Throttled() | InProgress() | QuotaExhausted() | LaneClosed() | Outage() | Outdated():
            return Released(job)
        case Final():
            return Failed(job, readable(error), stack(job, error))
    return _another_try(job, error, rules, rng)


def _another_try(job: Job, error: BaseException, rules: RetryRules, rng: random.Random) -> Ending:
    reason, trace = readable(error), stack(job, error)
    if job.attempt >= job.options.attempts:
        return Failed(job, reason, trace)
    wish_ms = error.after_ms if isinstance(error, Retry) else 0
    try:
        delay_ms = next_delay_ms(job.options, job.attempt, at_least_ms=wish_ms, jitter=rules.jitter, rng=rng)
    except Final as unusable:
        return Failed(job, f"{reason} (no retry: {unusable.reason})", trace)
    return Retried(job, reason, trace, delay_ms)


def readable(error: BaseException) -> str:
    """The reason as Bull's tools show it: never empty, never endless, always valid UTF-8."""
    words = error.reason if isinstance(error, FlowstateError) else str(error)
    words = words.encode("utf-8", "replace").decode()
    return words[:LONGEST_REASON] or type(error).__name__


def stack(job: Job, error: BaseException) -> bytes:
    """The job's stack traces with this failure appended, cut to the job's `stackTraceLimit`: a JSON array."""
    try:
        traces = msgspec.json.decode(job.stacktrace or b"[]", type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        traces = []  # node reads broken stack traces as none, too
    traces.append(_trace(error))
    limit = job.options.stack_trace_limit
    if limit is not None:
        traces = traces[-limit:] if limit > 0 else []
    return msgspec.json.encode(traces)


def _trace(error: BaseException) -> str:
    """Our own errors are facts of the mail's life; only a bug needs to say where in the code it happened."""
    if isinstance(error, FlowstateError):
        return f"{type(error).__name__}: {readable(error)}"
    text = "".join(traceback.format_exception(error, limit=-12))
    return text.encode("utf-8", "replace").decode()[-LONGEST_TRACE:]

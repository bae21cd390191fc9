"""The result of a job: what the handler returned or raised decides what is written to Redis. Pure.

This is where a retry is decided.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    EarlierRequestError,
    FlowstateError,
    InvalidDataError,
    MailExpired,
    MailSkipped,
    MaybeSentError,
    PermanentError,
    ProviderRefusedError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
    RequestInProgressError,
    RetryableError,
    StaleDecisionError,
    StoreUnavailableError,
    UnclearRefusalError,
    is_resource_shortage,
)
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.mail.kinds import KINDS, Kind, redact_codes
from flowstate_daemon.queue.backoff import next_delay_ms
from flowstate_daemon.queue.job import Job, JobFailed, JobRetried, JobSucceeded
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.batch import MAYBE_SENT
from flowstate_daemon.worker.in_flight import JobRun

SHORTAGE_DELAY_MS = 1_000  # this machine ran out of something: at once it would not be better
MAX_REASON_LENGTH = 2_000
MAX_TRACE_LENGTH = 8_000
MAX_KIND_LENGTH = 100
NOT_SENT_OUTCOMES = ("skipped", "expired")  # the fields of a return value that say why the email was not sent


class JobReleased(msgspec.Struct, frozen=True):
    """The run does not count as an attempt: the job returns unchanged to the front of its queue, or to `delayed`."""

    job: Job
    delay_ms: int = 0


JobResult: TypeAlias = JobSucceeded | JobRetried | JobFailed | JobReleased


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The daemon's part in a retry; everything else is in the job's options."""

    jitter: float = 0.0


def result_for_return(job: Job, value: Any) -> JobResult:
    """The result of a run that returned. A value that JSON cannot represent becomes null; the email was sent."""
    try:
        return JobSucceeded(job, msgspec.json.encode(value))
    except (TypeError, UnicodeEncodeError, msgspec.MsgspecError):
        return JobSucceeded(job, b"null")


def unsent(value: Any) -> tuple[str, str] | None:
    """Why the email of a completed job was not sent: outcome and reason. None if the return value does not say so.

    Other workers return whatever they like, so `{"skipped": false}` means nothing.
    """
    if not isinstance(value, dict):
        return None
    return next(((name, str(value[name])) for name in NOT_SENT_OUTCOMES if value.get(name)), None)


def result_for_error(job: Job, error: BaseException, policy: RetryPolicy, rng: random.Random) -> JobResult:
    """The result of a run that raised."""
    match error:
        case MailExpired():
            return result_for_return(job, {"expired": error.reason})
        case MailSkipped():
            return result_for_return(job, {"skipped": error.reason})
        case UnclearRefusalError() | EarlierRequestError():
            return JobReleased(job, error.after_ms)
        case (
            RateLimitedError()
            | RequestInProgressError()
            | QuotaExceededError()
            | ProviderRefusedError()
            | ProviderUnreachableError()
            | StoreUnavailableError()
            | StaleDecisionError()
        ):
            return JobReleased(job)
        case MaybeSentError():
            return JobFailed(job, failure_reason(error), append_stacktrace(job, error), requests=error.requests)
        case PermanentError():
            reason = failure_reason(error)
            if isinstance(error, InvalidDataError):  # found before it is sent, but an earlier attempt may have sent it
                reason = _final_reason(job, error, reason)
            return JobFailed(job, reason, append_stacktrace(job, error))
    if is_resource_shortage(error):
        return JobReleased(job, SHORTAGE_DELAY_MS)
    return _retry_or_fail(job, error, policy, rng)


def _retry_or_fail(job: Job, error: BaseException, policy: RetryPolicy, rng: random.Random) -> JobResult:
    reason, trace = failure_reason(error), append_stacktrace(job, error)
    if job.attempt >= job.options.attempts:
        return JobFailed(job, _final_reason(job, error, reason), trace)
    min_delay_ms = error.after_ms if isinstance(error, RetryableError) else 0
    try:
        delay_ms = next_delay_ms(job.options, job.attempt, at_least_ms=min_delay_ms, jitter=policy.jitter, rng=rng)
    except PermanentError as invalid:
        return JobFailed(job, _final_reason(job, error, f"{reason} (no retry: {invalid.reason})"), trace)
    return JobRetried(job, reason, trace, delay_ms)


def _final_reason(job: Job, error: BaseException, reason: str) -> str:
    """The reason of a job that is not tried again: it says if the outcome of this attempt or an earlier one is unknown.

    The stored request of an earlier attempt still exists, so a manual retry sends the same bytes.
    """
    unknown = job.stored_request_id is not None or (isinstance(error, FlowstateError) and error.outcome_unknown)
    return MAYBE_SENT.format(reason=reason) if unknown else reason


def failure_reason(error: BaseException) -> str:
    """The reason as Bull's tools show it: not empty, of limited length, valid UTF-8."""
    text = error.reason if isinstance(error, FlowstateError) else str(error)
    text = text.encode("utf-8", "replace").decode()
    return text[:MAX_REASON_LENGTH] or type(error).__name__


def append_stacktrace(job: Job, error: BaseException) -> bytes:
    """The job's stack traces with this failure appended, cut to the job's `stackTraceLimit`: a JSON array."""
    try:
        traces = msgspec.json.decode(job.stacktrace or b"[]", type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        traces = []  # Node ignores invalid stack traces too
    traces.append(_trace(error))
    limit = job.options.stack_trace_limit
    if limit is not None:
        traces = traces[-limit:] if limit > 0 else []
    return msgspec.json.encode(traces)


def _trace(error: BaseException) -> str:
    """Our own errors need no traceback: only a bug has to show where in the code it happened."""
    if isinstance(error, FlowstateError):
        return f"{type(error).__name__}: {failure_reason(error)}"
    text = "".join(traceback.format_exception(error, limit=-12))
    return text.encode("utf-8", "replace").decode()[-MAX_TRACE_LENGTH:]


class OutcomeRecorder:
    """Adds the outcome for the ledger to each result, in the form that `database.ledger.parse_outcome` reads."""

    def __init__(self, keys: Keys, clock: Clock, kinds: Mapping[str, Kind] = KINDS) -> None:
        self._base = keys.base
        self.kinds = kinds  # replaced by a reload
        self._clock = clock

    def attach(self, run: JobRun, result: JobResult) -> JobResult:
        """The same result with its journal entry, and with the job's data without codes."""
        match result:
            case JobSucceeded():
                outcome = run.skip_reason or "sent"
                reason = run.log_fields.get("skipped") or run.log_fields.get("expired")
                journal = self._entry(run, outcome, reason)
                return JobSucceeded(result.job, result.returnvalue, journal, self._redacted_data(run))
            case JobRetried():
                return replace(result, journal=self._entry(run, "retried", result.reason))
            case JobFailed():
                return replace(result, journal=self._entry(run, "failed", result.reason), data=self._redacted_data(run))
        return result

    def _entry(self, run: JobRun, outcome: str, reason: str | None) -> bytes:
        job = run.job
        entry = {
            "key": f"{self._base}{job.id}:{job.timestamp}:{job.attempt}",
            "at": self._clock.now_ms(),
            "job_id": job.id,
            "kind": job.name[:MAX_KIND_LENGTH],
            "to": run.recipient,
            "attempt": job.attempt,
            "outcome": outcome,
            "provider_id": run.log_fields.get("provider_id"),
            "reason": None if reason is None else redact_text(reason),
            "decisions": run.decisions,
        }
        try:
            return msgspec.json.encode(entry)
        except UnicodeEncodeError:  # the kind or the id contains a lone surrogate
            return msgspec.json.encode({**entry, "kind": ascii(entry["kind"]), "job_id": ascii(job.id)})

    def _redacted_data(self, run: JobRun) -> bytes:
        return redact_codes(run.job.name, run.job.data, self.kinds)

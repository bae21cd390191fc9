"""From what a run returned or raised to the result that is written."""

from __future__ import annotations

import errno
import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import (
    InvalidDataError,
    MailSkipped,
    PermanentError,
    ProviderRefusedError,
    RateLimitedError,
    RetryableError,
    StaleDecisionError,
    StoreUnavailableError,
)
from flowstate_daemon.queue.job import Backoff, Job, JobFailed, JobOptions, JobRetried, JobSucceeded
from flowstate_daemon.worker.results import (
    JobReleased,
    RetryPolicy,
    failure_reason,
    result_for_error,
    result_for_return,
)

POLICY = RetryPolicy()
EXPONENTIAL = Backoff("exponential", 2000)


def job(made: int = 0, stacktrace: bytes = b"", **options: object) -> Job:
    return Job(
        id="7",
        name="welcome",
        data=b"{}",
        options=JobOptions(**options),  # type: ignore[arg-type]
        timestamp=1_795_000_000_000,
        attempts_made=made,
        priority=5,
        stacktrace=stacktrace,
    )


def result_of(of: Job, error: BaseException) -> object:
    return result_for_error(of, error, POLICY, random.Random(0))


@pytest.mark.parametrize(("made", "delay_ms"), [(0, 2000), (1, 4000), (2, 8000)])
def test_retry_delay_doubles_from_two_seconds(made: int, delay_ms: int) -> None:
    """The delay before retry n is base x 2^(n-1)."""
    result = result_of(job(made, attempts=4, backoff=EXPONENTIAL), RetryableError("the provider fails"))
    assert isinstance(result, JobRetried)
    assert result.delay_ms == delay_ms


def test_last_attempt_fails_the_job() -> None:
    """`attempts` counts all attempts."""
    assert isinstance(result_of(job(3, attempts=4, backoff=EXPONENTIAL), RetryableError("no")), JobFailed)


@pytest.mark.parametrize("stored_request_id", [None, "e1"])
@pytest.mark.parametrize("outcome_unknown", [False, True])
@pytest.mark.parametrize("attempts", [1, 2])
def test_last_attempt_says_that_the_email_may_have_been_sent(
    stored_request_id: str | None, attempts: int, *, outcome_unknown: bool
) -> None:
    """If the response to this attempt is unknown, or that to an earlier one, whose request is still stored."""
    error = RetryableError("no answer")
    error.outcome_unknown = outcome_unknown
    result = result_of(msgspec.structs.replace(job(attempts=attempts), stored_request_id=stored_request_id), error)
    assert isinstance(result, JobFailed if attempts == 1 else JobRetried)
    may_have_been_sent = isinstance(result, JobFailed) and (outcome_unknown or stored_request_id is not None)
    assert result.reason == "no answer" + " (the email may have been sent)" * may_have_been_sent


@pytest.mark.parametrize("error", [PermanentError("refused"), InvalidDataError("broken")])
def test_permanent_error_fails_at_the_first_attempt(error: PermanentError) -> None:
    """A permanent error fails the job at once, whatever attempts remain."""
    assert isinstance(result_of(job(attempts=9, backoff=EXPONENTIAL), error), JobFailed)


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError("slow", after_ms=1),
        ProviderRefusedError("key"),
        StoreUnavailableError("redis"),
        StaleDecisionError("old"),
    ],
)
def test_job_is_released_when_the_cause_is_not_the_job(error: Exception) -> None:
    """Rate limits, a refused account, outages and stale decisions release the job unchanged."""
    assert result_of(job(attempts=1), error) == JobReleased(job(attempts=1))


@pytest.mark.parametrize(
    ("error", "noted"), [(InvalidDataError("no address"), True), (PermanentError("422 from the provider"), False)]
)
def test_invalid_data_does_not_hide_that_an_earlier_attempt_may_have_sent_the_email(
    error: PermanentError, *, noted: bool
) -> None:
    """The data was changed between two attempts. A refusal of the stored request itself says that it was not sent."""
    result = result_of(msgspec.structs.replace(job(1, attempts=4), stored_request_id="e1"), error)
    assert isinstance(result, JobFailed)
    assert result.reason == error.reason + " (the email may have been sent)" * noted


def test_skipped_mail_completes_with_the_reason() -> None:
    """An email that is skipped on purpose completes its job."""
    result = result_of(job(), MailSkipped("unsubscribed"))
    assert isinstance(result, JobSucceeded)
    assert json.loads(result.returnvalue) == {"skipped": "unsubscribed"}


def test_retry_waits_at_least_as_long_as_the_provider_asks() -> None:
    """A retry never comes before the provider accepts it."""
    result = result_of(job(attempts=2, backoff=EXPONENTIAL), RetryableError("busy", after_ms=60_000))
    assert isinstance(result, JobRetried)
    assert result.delay_ms >= 60_000


def test_unknown_backoff_fails_the_job_with_both_reasons() -> None:
    """Bull leaves such a job locked; here it fails with both reasons."""
    result = result_of(job(attempts=3, backoff=Backoff("fibonacci", 5)), RetryableError("the provider fails"))
    assert isinstance(result, JobFailed)
    assert "the provider fails" in result.reason
    assert "fibonacci" in result.reason


@pytest.mark.parametrize(("limit", "kept"), [(None, 3), (1, 1), (0, 0)])
def test_stack_traces_are_cut_to_the_limit_of_the_job(limit: int | None, kept: int) -> None:
    """The newest traces stay."""
    result = result_of(job(attempts=1, stacktrace=b'["a","b"]', stack_trace_limit=limit), RetryableError("third"))
    assert isinstance(result, JobFailed)
    traces = json.loads(result.stacktrace)
    assert len(traces) == kept
    assert not kept or "third" in traces[-1]


@pytest.mark.parametrize("broken", [b"", b"{", b"7", b"[1]", b"\xff"])
def test_invalid_stack_traces_are_ignored(broken: bytes) -> None:
    """What another program wrote there cannot prevent the failure from being recorded."""
    result = result_of(job(attempts=1, stacktrace=broken), RetryableError("no"))
    assert isinstance(result, JobFailed)
    assert len(json.loads(result.stacktrace)) == 1


@given(st.text())
def test_failure_reason_is_valid_utf8_and_not_empty(text: str) -> None:
    """Any message becomes a reason that can be stored."""
    assert failure_reason(ValueError(text)).encode()


@pytest.mark.parametrize("result", [float("nan"), object(), {1: object()}, "\ud800"])
def test_return_value_that_is_not_json_becomes_null(result: object) -> None:
    """A sent email is never lost because of its return value."""
    assert result_for_return(job(), result) == JobSucceeded(job(), b"null")


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "x") for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
)
def test_shortage_of_resources_is_no_attempt(error: Exception) -> None:
    """Wherever it happens while an email is prepared: the job is tried again a second later."""
    assert result_of(job(attempts=1), error) == JobReleased(job(attempts=1), 1_000)

"""From what a run raised to what is written down."""

from __future__ import annotations

import json
import random

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

RULES = RetryPolicy()
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


def end(of: Job, error: BaseException) -> object:
    return result_for_error(of, error, RULES, random.Random(0))


@pytest.mark.parametrize(("made", "delay_ms"), [(0, 2000), (1, 4000), (2, 8000)])
def test_retries_wait_two_four_and_eight_seconds(made: int, delay_ms: int) -> None:
    """The delay before retry n is base x 2^(n-1)."""
    ending = end(job(made, attempts=4, backoff=EXPONENTIAL), RetryableError("provider is ill"))
    assert isinstance(ending, JobRetried)
    assert ending.delay_ms == delay_ms


def test_the_last_attempt_fails_for_good() -> None:
    """`attempts` counts all tries."""
    assert isinstance(end(job(3, attempts=4, backoff=EXPONENTIAL), RetryableError("no")), JobFailed)


@pytest.mark.parametrize("error", [PermanentError("refused"), InvalidDataError("broken")])
def test_final_errors_burn_no_attempts(error: PermanentError) -> None:
    """A final error fails the job at once, whatever is left."""
    assert isinstance(end(job(attempts=9, backoff=EXPONENTIAL), error), JobFailed)


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError("slow", after_ms=1),
        ProviderRefusedError("key"),
        StoreUnavailableError("redis"),
        StaleDecisionError("old"),
    ],
)
def test_what_is_not_the_jobs_fault_is_no_attempt(error: Exception) -> None:
    """Rate limits, closed lanes and outages hand the job back as it was."""
    assert end(job(attempts=1), error) == JobReleased(job(attempts=1))


def test_a_skip_completes_with_its_reason() -> None:
    """Nothing to send is a success that explains itself."""
    ending = end(job(), MailSkipped("unsubscribed"))
    assert isinstance(ending, JobSucceeded)
    assert json.loads(ending.returnvalue) == {"skipped": "unsubscribed"}


def test_the_providers_wish_is_a_floor() -> None:
    """A retry never comes before the provider will accept it."""
    ending = end(job(attempts=2, backoff=EXPONENTIAL), RetryableError("busy", after_ms=60_000))
    assert isinstance(ending, JobRetried)
    assert ending.delay_ms >= 60_000


def test_an_unknown_backoff_fails_the_job_and_says_so() -> None:
    """Bull leaves such a job locked; here it fails with both reasons."""
    ending = end(job(attempts=3, backoff=Backoff("fibonacci", 5)), RetryableError("provider is ill"))
    assert isinstance(ending, JobFailed)
    assert "provider is ill" in ending.reason
    assert "fibonacci" in ending.reason


@pytest.mark.parametrize(("limit", "kept"), [(None, 3), (1, 1), (0, 0)])
def test_stack_traces_are_kept_to_the_jobs_limit(limit: int | None, kept: int) -> None:
    """The newest traces stay."""
    ending = end(job(attempts=1, stacktrace=b'["a","b"]', stack_trace_limit=limit), RetryableError("third"))
    assert isinstance(ending, JobFailed)
    traces = json.loads(ending.stacktrace)
    assert len(traces) == kept
    assert not kept or "third" in traces[-1]


@pytest.mark.parametrize("broken", [b"", b"{", b"7", b"[1]", b"\xff"])
def test_broken_stack_traces_count_as_none(broken: bytes) -> None:
    """What somebody else wrote there cannot stop the failure from being recorded."""
    ending = end(job(attempts=1, stacktrace=broken), RetryableError("no"))
    assert isinstance(ending, JobFailed)
    assert len(json.loads(ending.stacktrace)) == 1


@given(st.text())
def test_reasons_can_always_be_stored(text: str) -> None:
    """Any message becomes a non-empty reason in valid UTF-8."""
    assert failure_reason(ValueError(text)).encode()


@pytest.mark.parametrize("result", [float("nan"), object(), {1: object()}, "\ud800"])
def test_a_result_that_json_cannot_hold_becomes_null(result: object) -> None:
    """A sent mail is never lost over its return value."""
    assert result_for_return(job(), result) == JobSucceeded(job(), b"null")

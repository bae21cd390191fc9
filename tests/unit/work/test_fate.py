"""From what a run raised to what is written down."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import Final, LaneClosed, Malformed, Outage, Outdated, Retry, Skip, Throttled
from flowstate_daemon.queue.job import Backoff, Failed, Finished, Job, JobOptions, Retried
from flowstate_daemon.work.fate import Released, RetryRules, ended_by, finished, readable

RULES = RetryRules()
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
    return ended_by(of, error, RULES, random.Random(0))


@pytest.mark.parametrize(("made", "delay_ms"), [(0, 2000), (1, 4000), (2, 8000)])
def test_retries_wait_two_four_and_eight_seconds(made: int, delay_ms: int) -> None:
    """The delay before retry n is base x 2^(n-1)."""
    ending = end(job(made, attempts=4, backoff=EXPONENTIAL), Retry("provider is ill"))
    assert isinstance(ending, Retried)
    assert ending.delay_ms == delay_ms


def test_the_last_attempt_fails_for_good() -> None:
    """`attempts` counts all tries."""
    assert isinstance(end(job(3, attempts=4, backoff=EXPONENTIAL), Retry("no")), Failed)


@pytest.mark.parametrize("error", [Final("refused"), Malformed("broken")])
def test_final_errors_burn_no_attempts(error: Final) -> None:
    """A final error fails the job at once, whatever is left."""
    assert isinstance(end(job(attempts=9, backoff=EXPONENTIAL), error), Failed)


@pytest.mark.parametrize("error", [Throttled("slow", after_ms=1), LaneClosed("key"), Outage("redis"), Outdated("old")])
def test_what_is_not_the_jobs_fault_is_no_attempt(error: Exception) -> None:
    """Rate limits, closed lanes and outages hand the job back as it was."""
    assert end(job(attempts=1), error) == Released(job(attempts=1))


def test_a_skip_completes_with_its_reason() -> None:
    """Nothing to send is a success that explains itself."""
    ending = end(job(), Skip("unsubscribed"))
    assert isinstance(ending, Finished)
    assert json.loads(ending.returnvalue) == {"skipped": "unsubscribed"}


def test_the_providers_wish_is_a_floor() -> None:
    """A retry never comes before the provider will accept it."""
    ending = end(job(attempts=2, backoff=EXPONENTIAL), Retry("busy", after_ms=60_000))
    assert isinstance(ending, Retried)
    assert ending.delay_ms >= 60_000


def test_an_unknown_backoff_fails_the_job_and_says_so() -> None:
    """Bull leaves such a job locked; here it fails with both reasons."""
    ending = end(job(attempts=3, backoff=Backoff("fibonacci", 5)), Retry("provider is ill"))
    assert isinstance(ending, Failed)
    assert "provider is ill" in ending.reason
    assert "fibonacci" in ending.reason


@pytest.mark.parametrize(("limit", "kept"), [(None, 3), (1, 1), (0, 0)])
def test_stack_traces_are_kept_to_the_jobs_limit(limit: int | None, kept: int) -> None:
    """The newest traces stay."""
    ending = end(job(attempts=1, stacktrace=b'["a","b"]', stack_trace_limit=limit), Retry("third"))
    assert isinstance(ending, Failed)
    traces = json.loads(ending.stacktrace)
    assert len(traces) == kept
    assert not kept or "third" in traces[-1]


@pytest.mark.parametrize("broken", [b"", b"{", b"7", b"[1]", b"\xff"])
def test_broken_stack_traces_count_as_none(broken: bytes) -> None:
    """What somebody else wrote there cannot stop the failure from being recorded."""
    ending = end(job(attempts=1, stacktrace=broken), Retry("no"))
    assert isinstance(ending, Failed)
    assert len(json.loads(ending.stacktrace)) == 1


@given(st.text())
def test_reasons_can_always_be_stored(words: str) -> None:
    """Any message becomes a non-empty reason in valid UTF-8."""
    assert readable(ValueError(words)).encode()


@pytest.mark.parametrize("result", [float("nan"), object(), {1: object()}, "\ud800"])
def test_a_result_that_json_cannot_hold_becomes_null(result: object) -> None:
    """A sent mail is never lost over its return value."""
    assert finished(job(), result) == Finished(job(), b"null")

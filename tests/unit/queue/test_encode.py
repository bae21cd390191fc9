"""What we write for node to read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.bull_queue import due_at, score_suffix
from flowstate_daemon.queue.decode import decode_options
from flowstate_daemon.queue.encode import LATEST_MS, encode_json, encode_options, finished_event
from flowstate_daemon.queue.job import KEEP, MAX_SAFE_INTEGER, REMOVE, Backoff, NewJob, Retention

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXT, parts, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_what_is_written_reads_the_same(value: Any) -> None:
    """Strict JSON in UTF-8, value for value."""
    text = encode_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [2**53],
        {"a": -(2**60)},
        10**400,
        "\ud800",
        {1: 2},
        {"a": b"x"},
        {1, 2},
        object(),
        deep(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_or_node_cannot_hold_is_refused(value: Any) -> None:
    """Nothing is bent until it fits."""
    with pytest.raises(InvalidDataError):
        encode_json(value)


def test_options_as_flowstate_writes_them() -> None:
    """Members and order of the backend's own."""
    job = NewJob("otp", {}, priority=1, attempts=3, backoff=Backoff("exponential", 2000), remove_on_complete=REMOVE)
    assert encode_options(job, 1_795_000_000_000) == (
        b'{"attempts":3,"backoff":{"type":"exponential","delay":2000},"removeOnComplete":true,"removeOnFail":false,'
        b'"priority":1,"delay":0,"timestamp":1795000000000}'
    )


@pytest.mark.parametrize("policy", [KEEP, REMOVE, Retention(5), Retention(None, 60), Retention(5, 60)])
def test_options_read_as_they_were_meant(policy: Retention) -> None:
    """Our own worker reads what our own producer wrote."""
    job = NewJob(
        "x", {}, attempts=4, backoff=Backoff("fixed", 5), remove_on_complete=policy, remove_on_fail=policy,
        timeout_ms=7, lifo=True, stack_trace_limit=3,
    )  # fmt: skip
    found, problem = decode_options(encode_options(job, 5))
    assert problem is None
    assert (found.attempts, found.backoff, found.timeout_ms, found.lifo, found.stack_trace_limit) == (
        4, Backoff("fixed", 5), 7, True, 3,
    )  # fmt: skip
    assert found.remove_on_complete == found.remove_on_fail == policy


@given(TEXT, TEXT)
def test_events_are_json(job_id: str, val: str) -> None:
    """A listener that cannot parse one takes its process down."""
    assert json.loads(finished_event(job_id, val)) == {"jobId": job_id, "val": val}


@pytest.mark.parametrize(
    ("job_id", "bits"), [("1", 1), ("4097", 1), ("b", 0), ("", 0), ("1.5", 0), ("٣", 0), ("-1", 0)]
)
def test_low_bits(job_id: str, bits: int) -> None:
    """Bull's: the number of the job, or nothing."""
    assert score_suffix(job_id) == bits


def test_due_times_stay_exact() -> None:
    """A score beyond 2^53 would be rounded."""
    assert due_at(1000, 0) == 0
    assert due_at(1000, 5) == 1005
    assert due_at(1000, 2**50) == LATEST_MS
    assert LATEST_MS * 4096 + 4095 <= MAX_SAFE_INTEGER

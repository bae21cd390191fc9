"""Options and jobs of any producer, read without trusting them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.decode import MAX_CACHED_LENGTH, decode_job, decode_options, decode_retention
from flowstate_daemon.queue.job import DEFAULTS, KEEP, REMOVE, Backoff, JobOptions, Retention, decode_json

FLOWSTATE = (
    b'{"attempts":3,"backoff":{"type":"exponential","delay":2000},"removeOnComplete":true,"removeOnFail":false,'
    b'"priority":1,"delay":0,"timestamp":%d}'
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from(
    ["attempts", "backoff", "removeOnComplete", "removeOnFail", "timeout", "lifo", "stackTraceLimit", "repeat", "x"]
)


# Parts of hostile texts around the only member whose value is not part of what is cached.
PARTS = st.binary(max_size=3) | st.sampled_from(
    [
        *(b"{", b"}", b",", b" ", b"null", b"[" * 50, b"\xff", b'"', b'\\"', b'"\\ud83d"', "١٢٣٤٥٦٧٨٩٠١٢٣".encode()),
        *(b'"timestamp":', b'"timestamp" :', b'"a":{"timestamp":1795000000000}', b'"timestamp":1795000000000'),
        *(b"1795000000000", b"0795000000000", b"17950000000001", b"-1795000000000", b"1795000000000.5", b"e3"),
        *(b'"repeat":{}', b'"repeat"', b'"attempts":3', b'"jobId":"'),
    ]
)
HOSTILE = st.lists(PARTS, max_size=14).map(b"".join)
STAMPED = st.builds(
    lambda before, digits, after: b"{" + before + b'"timestamp":' + digits + after + b"}",
    st.sampled_from([b"", b'"attempts":3,', b'"jobId":"', b'"a":{']) | HOSTILE,
    st.sampled_from([b"1795000000000", b"0795000000000", b"179500000000", b"17950000000001"]),
    st.sampled_from([b"", b',"attempts":4', b".5", b"e3", b"x", b" ", b'"', b"}"]) | HOSTILE,
)


def options(**members: Any) -> JobOptions:
    found, problem = decode_options(json.dumps(members).encode())
    assert problem is None
    return found


def row(**fields: Any) -> list[Any]:
    known = {"name": b"welcome", "data": b"{}", "opts": b"{}", "timestamp": b"5", "made": None, "priority": b"1"}
    stored_request = fields.pop("storedRequest", None)
    requests = fields.pop("requests", None)
    return [*(known | fields).values(), None, stored_request, requests, b"7"]


def test_flowstates_options() -> None:
    """What the backend writes; texts that differ only in their time share one result."""
    found, problem = decode_options(FLOWSTATE % 1_795_000_000_000)
    assert (found, problem) == (
        JobOptions(attempts=3, backoff=Backoff("exponential", 2000), remove_on_complete=REMOVE),
        None,
    )
    assert decode_options(FLOWSTATE % 1_795_000_000_001)[0] is found


@given(HOSTILE | STAMPED)
@example(b'{"repeat":{"every":5},"timestamp":1795000000000}')
@example(b'{"timestamp":179500000 000}')
def test_shared_result_is_that_of_the_text_itself(text: bytes) -> None:
    """Whatever a text contains, the options are those that it has, and it is invalid if it is so when parsed alone."""
    shared, problem = decode_options(text)
    alone, own_problem = decode_options(b" " * (MAX_CACHED_LENGTH + 1) + text)  # too long to be shared
    if text:
        assert (shared, problem is None) == (alone, own_problem is None)
    else:
        assert (shared, problem) == (DEFAULTS, None)


def test_only_the_outer_time_is_passed_over() -> None:
    """A text that looks like a time inside a value, or a broken number, is no reason to mix up two texts."""
    hidden = json.dumps({"jobId": '"timestamp":1795000000000', "attempts": 2}).encode()
    assert decode_options(hidden)[0].attempts == 2
    broken = (FLOWSTATE % 1_795_000_000_000).replace(b":1795", b":x795")
    assert decode_options(broken)[1] is not None
    assert decode_options((FLOWSTATE % 1_795_000_000_000).replace(b":1795", b":0795"))[1] is not None


def test_nothing_is_bulls_default() -> None:
    """No options at all, and empty ones."""
    assert decode_options(None) == decode_options(b"") == (DEFAULTS, None)
    assert options() == DEFAULTS


@pytest.mark.parametrize(
    ("given", "attempts"),
    [(3, 3), ("3", 3), (2.5, 3), (None, 1), (0, 1), (-4, 1), ("many", 1), ({}, 1), (True, 1), (1e300, 10**9)],
)
def test_attempts(given: object, attempts: int) -> None:
    """What is no number means one run."""
    assert options(attempts=given).attempts == attempts


@pytest.mark.parametrize(
    ("given", "backoff"),
    [
        (500, Backoff("fixed", 500)),
        (0, None),
        (None, None),
        ({"type": "fixed", "delay": 1.5}, Backoff("fixed", 1.5)),
        ({"type": "exponential"}, Backoff("exponential", 0)),
        ({"type": "exponential", "delay": "2000"}, Backoff("exponential", 2000)),
        ({"type": "exponential", "delay": {}}, Backoff("exponential", 0)),
        ({"type": "fibonacci", "delay": 1}, Backoff("fibonacci", 1)),
        ({"delay": 1}, Backoff("none", 1)),
        ("exponential", Backoff("str", 0)),
        ([1], Backoff("list", 0)),
    ],
)
def test_backoff(given: object, backoff: Backoff | None) -> None:
    """Numbers are fixed delays; a kind that does not exist is read and refused at the first retry."""
    assert options(backoff=given).backoff == backoff


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        (True, REMOVE),
        (0, REMOVE),
        ("x", REMOVE),
        ({"count": 0}, REMOVE),
        (False, KEEP),
        (None, KEEP),
        ("", KEEP),
        (-1, KEEP),
        ({}, KEEP),
        ([], KEEP),
        ({"count": -1}, KEEP),
        ({"count": None, "age": True}, KEEP),
        (100, Retention(100)),
        ({"count": 1.5}, Retention(2)),
        ({"age": 60}, Retention(None, 60)),
        ({"age": "60", "count": "5"}, Retention(5, 60)),
    ],
)
def test_retention(given: object, policy: Retention) -> None:
    """All forms of Bull; null, with which Bull loses the job, keeps it."""
    assert decode_retention(given) == policy


@pytest.mark.parametrize(
    ("given", "timeout_ms"), [(200, 200), (0.5, 1), (0, None), (None, None), (False, None), ("", None)]
)
def test_timeout(given: object, timeout_ms: int | None) -> None:
    """Nothing and zero are no timeout."""
    assert options(timeout=given).timeout_ms == timeout_ms


@pytest.mark.parametrize("given", ["200", True, -5, {"ms": 5}, [1]])
def test_a_timeout_that_is_none(given: object) -> None:
    """Bull fails such a job at once, too."""
    problem = decode_options(json.dumps({"timeout": given}).encode())[1]
    assert problem is not None
    assert "timeout" in problem


@pytest.mark.parametrize(("given", "limit"), [(2, 2), (0, None), (-1, None), ("3", 3), (None, None), ("x", None)])
def test_stack_trace_limit(given: object, limit: int | None) -> None:
    """Zero is no limit, as in Bull."""
    assert options(stackTraceLimit=given).stack_trace_limit == limit


def test_repeatable_jobs_keep_everything() -> None:
    """The successor inherits what we do not know."""
    found = options(repeat={"cron": "* * * * *"}, x=[1], timestamp=1_795_000_000_000)
    assert found.repeat == {"cron": "* * * * *"}
    assert found.raw == {"repeat": {"cron": "* * * * *"}, "x": [1], "timestamp": 1_795_000_000_000}
    assert options(x=[1]).raw == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{secret", "not valid JSON"),
        (b"[]", "list, not an object"),
        (b'"secret"', "str, not an object"),
        (b'{"x":secret}', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 5000, "not valid JSON"),
    ],
)
def test_broken_options(text: bytes, words: str) -> None:
    """A reason that a person understands, without a word of what stood there."""
    found, problem = decode_options(text)
    assert found == DEFAULTS
    assert problem is not None
    assert words in problem
    assert "secret" not in problem


@pytest.mark.parametrize("dirt", [b'"x\\ud83d"', b"NaN", b"-Infinity", b'"\x0b"', b'"\xff"', b'"\\u0000"'])
@pytest.mark.parametrize("member", [b"x", b"jobId", b"attempts", b"delay", b"timeout"])
def test_dirt_in_an_option_does_not_refuse_the_job(member: bytes, dirt: bytes) -> None:
    """The other options are read, and the dirty one is none."""
    found, problem = decode_options(b'{"lifo":true,"' + member + b'":' + dirt + b',"stackTraceLimit":3}')
    assert problem is None or member == b"timeout"
    assert (found.lifo, found.stack_trace_limit, found.attempts) == (True, 3, 1)


@given(st.dictionaries(MEMBERS, JSON, max_size=4) | JSON)
def test_reading_options_never_raises(value: Any) -> None:
    """Any JSON at all gives options of the right types."""
    found, _ = decode_options(json.dumps(value).encode())
    assert found.attempts >= 1
    assert found.timeout_ms is None or found.timeout_ms > 0
    hash((found.remove_on_complete, found.remove_on_fail, found.backoff))


@given(st.binary(max_size=30))
def test_reading_bytes_never_raises(text: bytes) -> None:
    """Nor do bytes that are no JSON, in any field."""
    decode_options(text)
    decode_job([text] * 10, 100)


def test_a_job() -> None:
    """All fields of an ordinary one."""
    job = decode_job(row(made=b"2"), 100)
    assert (job.id, job.name, job.data, job.timestamp, job.attempts_made, job.attempt) == (
        "7",
        "welcome",
        b"{}",
        5,
        2,
        3,
    )
    assert (job.priority, job.stacktrace, job.invalid_reason, job.stored_request_id) == (1, b"[]", None, None)
    assert decode_job(row(storedRequest=b"e1"), 100).stored_request_id == "e1"
    assert [decode_job(row(requests=text), 100).requests for text in (None, b"3", b"x", b"-1")] == [0, 3, 0, 0]


def test_an_unnamed_job_without_data() -> None:
    """It reads as Bull reads it."""
    job = decode_job(row(name=None, data=None, opts=None, timestamp=None, priority=b"1.0"), 100)
    assert (job.name, job.payload(), job.options, job.timestamp, job.priority) == ("__default__", {}, DEFAULTS, 0, 1)


def test_data_that_was_too_long() -> None:
    """The problem says how long it is and how much is read."""
    assert (
        decode_job([*row(data=None), 500], 100).invalid_reason
        == "the job's data has 500 bytes, more than the maximum of 100"
    )


def test_an_emoji_cut_in_two() -> None:
    """Valid JSON for node, but no text; the reason says so."""
    with pytest.raises(InvalidDataError, match="half a surrogate pair"):
        decode_json(b'{"a":"\\ud83d"}', what="data")
    assert decode_json(b'"\\ud83d\\ude42"', what="data") == "🙂"


@pytest.mark.parametrize(
    ("written", "created_ms"),
    [
        (b"1772438400123", 1_772_438_400_123),
        (b"1772438400", 1_772_438_400_000),
        (b"1772438400.5", 1_772_438_400_000),
        (b"1.7724384e9", 1_772_438_400_000),
        (b"1772438400123456", 1_772_438_400_123),
        (b"1772438400123456789", 1_772_438_400_123),
        (b"0", 0),
        (b"-1", 0),
        (b"NaN", 0),
        (b"Infinity", 0),
        (b"undefined", 0),
        (b"", 0),
        (b"7", 0),
        (b"9" * 40, 0),
        (b"1e300", 0),
        (None, 0),
    ],
)
def test_creation_time_in_any_unit(written: bytes | None, created_ms: int) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds; anything else is unknown."""
    assert decode_job(row(timestamp=written), 1_000).created_ms == created_ms


@pytest.mark.parametrize("text", [b"1_795_000_000_000", b"1_7", b"_1", b"1_000.5"])
def test_numbers_are_those_of_redis_too(text: bytes) -> None:
    """Scripts compare the time of a job: one that only Python understands would never be settled."""
    assert decode_job(row(timestamp=text), 100).timestamp == 0
    assert options(attempts=text.decode()).attempts == 1

"""The view of a job: no content of a hash breaks it, and it shows no code."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.redaction import REDACTED, redact_json
from flowstate_daemon.queue.inspector import JobLocation, JobView, build_job_view

FIELDS = [
    "name", "data", "opts", "timestamp", "delay", "priority", "deid", "processedOn", "attemptsMade",
    "stacktrace", "failedReason", "returnvalue", "finishedOn", "retriedOn", "progress", "stalledCounter",
]  # fmt: skip
WAITING = JobLocation("wait", None, locked=False, log_count=0)


def view(found: JobLocation = WAITING, **fields: str) -> JobView:
    return build_job_view("1", {name.encode(): value.encode() for name, value in fields.items()}, found)


def test_every_field_is_shown() -> None:
    """All that Bull writes into a hash has its place, and what it does not know is kept."""
    job = view(
        JobLocation("failed", 1700000000123.0, locked=True, log_count=2),
        name="otp",
        data='{"type":"otp","to":"a@b.c","context":{"otpCode":"123456"}}',
        opts='{"attempts":3,"priority":1}',
        timestamp="1700000000000",
        delay="5",
        priority="1",
        deid="d",
        processedOn="1700000000100",
        attemptsMade="2",
        stacktrace='["a","b"]',
        failedReason="no",
        returnvalue='{"id":7}',
        finishedOn="1700000000123",
        retriedOn="1700000000050",
        progress="50",
        stalledCounter="1",
        mystery="x",
    )
    assert job == JobView(
        id="1",
        state="failed",
        name="otp",
        data={"type": "otp", "to": "a@b.c", "context": {"otpCode": "123456"}},
        options={"attempts": 3, "priority": 1},
        timestamp=1700000000000,
        delay_ms=5,
        due_at=None,
        priority=1,
        attempts=3,
        attempts_made=2,
        processed_at=1700000000100,
        finished_at=1700000000123,
        retried_at=1700000000050,
        stalled_count=1,
        failed_reason="no",
        stacktrace=("a", "b"),
        progress=50,
        returnvalue={"id": 7},
        debounce_id="d",
        locked=True,
        log_count=2,
        extra_fields={"mystery": "x"},
        notes=(),
    )


def test_delayed_jobs_say_when_they_are_due() -> None:
    """The due time comes out of the score, without the bits that only order."""
    job = view(JobLocation("delayed", 1700000000123 * 4096 + 0.0, locked=False, log_count=0), name="otp")
    assert job.due_at == 1700000000123


@pytest.mark.parametrize(
    "text", ["{", "NaN", "1e999", '"\\ud800"' * 2, "[" * 5000, "[" * 300 + "]" * 300, "1" * 5000, "", "\x00"]
)
def test_broken_json_is_text_with_a_note(text: str) -> None:
    """What is not JSON is shown as it is, with a note that says which field it was."""
    job = view(data=text, opts=text, progress=text, returnvalue=text, stacktrace=text)
    assert (job.data, job.options, job.progress, job.returnvalue, job.stacktrace) == (text, text, text, text, (text,))
    assert job.notes == tuple(
        f"{name} is not valid JSON" for name in ("opts", "stacktrace", "data", "progress", "returnvalue")
    )


def test_wrong_numbers_are_noted() -> None:
    """A number that is none counts as absent and is noted."""
    job = view(timestamp="soon", attemptsMade="inf", priority="nan", delay="1.9")
    assert (job.timestamp, job.attempts_made, job.priority, job.delay_ms) == (None, 0, 0, 1)
    assert set(job.notes) == {f"{name} is not a number" for name in ("timestamp", "attemptsMade", "priority")}


@given(st.dictionaries(st.sampled_from([name.encode() for name in FIELDS]), st.binary(max_size=60)))
def test_nothing_in_a_hash_breaks_the_view(fields: dict[bytes, bytes]) -> None:
    """With any bytes in the fields the view is built and can be encoded as JSON, masked or not."""
    job = build_job_view("1", fields, WAITING)
    json.dumps(job.to_dict(), allow_nan=False).encode()
    json.dumps(job.to_dict(reveal=True), allow_nan=False).encode()


def test_halves_of_surrogate_pairs_are_replaced() -> None:
    """JavaScript may store half a character: it must not break printing."""
    assert view(data='{"a":"\\ud800x"}').data == {"a": "?x"}


@pytest.mark.parametrize(
    "name", ["otpCode", "OTP", "code", "password", "newPassword", "resetToken", "secret", "api_key", "apiKey", "pin"]
)
def test_secrets_are_masked(name: str) -> None:
    """Fields named like a secret are masked at any depth, also numbers; the job's own view keeps them."""
    job = view(
        data=json.dumps({"type": "otp", "context": {name: "123456", "deep": [{name: 7}], "expiresIn": "10 minutes"}})
    )
    assert job.redacted_data() == {
        "type": "otp",
        "context": {name: REDACTED, "deep": [{name: REDACTED}], "expiresIn": "10 minutes"},
    }
    assert "123456" not in json.dumps(job.to_dict())
    assert "123456" in json.dumps(job.to_dict(reveal=True))


def test_everything_below_a_secret_name_is_masked() -> None:
    """A secret that is a structure is masked leaf by leaf."""
    assert redact_json({"tokens": ["a", {"b": "c"}, None, True]}) == {"tokens": [REDACTED, {"b": REDACTED}, None, True]}


def test_tokens_in_links_are_masked() -> None:
    """An invitation's link is shown without what makes it work."""
    link = "https://x.y/projects/1?token=abc123&lang=fr#code=9"
    assert redact_json({"acceptUrl": link}) == {
        "acceptUrl": f"https://x.y/projects/1?token={REDACTED}&lang=fr#code={REDACTED}"
    }


@pytest.mark.parametrize("data", ['{"otpCode":"123456"', '"123456"', '["123456"]', "123456"])
def test_data_that_is_no_object_is_hidden(data: str) -> None:
    """Text that cannot be read field by field may hold a code anywhere: it is not shown at all."""
    assert "123456" not in str(view(data=data).redacted_data())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    )
)
def test_masking_keeps_the_shape(value: Any) -> None:
    """Masking changes leaves, never keys or lengths."""

    def shape(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: shape(each) for name, each in part.items()}
        return [shape(each) for each in part] if isinstance(part, list) else None

    assert shape(redact_json(value)) == shape(value)


ODD_NUMBERS = ["Infinity", "-Infinity", "inf", "NaN", "nan", "1e21", "-1e21", "1e400", "1" + "0" * 30, "1" * 5000]


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize("name", ["timestamp", "delay", "priority", "attemptsMade", "processedOn", "stalledCounter"])
def test_numbers_of_javascript_that_are_no_integers(name: str, number: str) -> None:
    """They become a note; the view can always be encoded."""
    job = view(**{name: number})
    assert any(name in note for note in job.notes)
    assert msgspec.json.encode(job.to_dict())


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e21", "1e400", "1" + "0" * 30, "-1" + "0" * 30])
@pytest.mark.parametrize("option", ["delay", "attempts", "priority", "timeout", "backoff"])
def test_options_with_such_numbers(option: str, number: str) -> None:
    """Whatever a producer wrote into the options, the view can be encoded."""
    job = view(opts=f'{{"{option}":{number},"repeat":{{"every":{number}}}}}')
    assert msgspec.json.encode(job.to_dict(reveal=True))
    assert 1 <= job.attempts <= 2**53


@pytest.mark.parametrize("score", [float("inf"), float("-inf"), 4096e21, -4096e21, 1.7e308])
def test_delays_that_never_end(score: float) -> None:
    """The job is due at no time, and a note says so."""
    job = view(JobLocation("delayed", score, locked=False, log_count=0))
    assert job.due_at is None
    assert any("due at no possible time" in note for note in job.notes)

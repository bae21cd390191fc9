"""The meaning of each response of the provider."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import (
    AlreadyAcceptedError,
    FlowstateError,
    PermanentError,
    ProviderRefusedError,
    QuotaExceededError,
    RateLimit,
    RateLimitedError,
    RequestInProgressError,
    RetryableError,
    UnclearRefusalError,
)
from flowstate_daemon.base.redaction import redact_provider_text
from flowstate_daemon.delivery.gateway import Rejected
from flowstate_daemon.delivery.responses import (
    Classification,
    Response,
    classify,
    is_acceptance,
    parse_rate_limit,
    parse_results,
    retry_after_ms,
)
from flowstate_daemon.mail.message import Accepted

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
HTML = b"<html><body>Bad gateway</body></html>"

# Each row of the provider's error list: status, type, result class for the metrics, error class.
ROWS: list[tuple[int, str, str, type[FlowstateError]]] = [
    (500, "application_error", "server_error", RetryableError),
    (500, "internal_server_error", "server_error", RetryableError),
    (502, "application_error", "server_error", RetryableError),
    (503, "service_unavailable", "server_error", RetryableError),
    (504, "application_error", "server_error", RetryableError),
    (408, "request_timeout", "server_error", RetryableError),
    (409, "concurrent_idempotent_requests", "in_progress", RequestInProgressError),
    (409, "resource_locked", "in_progress", RequestInProgressError),
    (409, "invalid_idempotent_request", "already_accepted", AlreadyAcceptedError),
    (429, "rate_limit_exceeded", "rate_limited", RateLimitedError),
    (429, "daily_quota_exceeded", "quota_exceeded", QuotaExceededError),
    (429, "monthly_quota_exceeded", "quota_exceeded", QuotaExceededError),
    (401, "missing_api_key", "refused", ProviderRefusedError),
    (401, "restricted_api_key", "refused", ProviderRefusedError),
    (403, "invalid_api_key", "refused", ProviderRefusedError),
    (403, "suspended_api_key", "refused", ProviderRefusedError),
    (403, "restricted_api_key", "refused", ProviderRefusedError),
    (403, "invalid_permission", "refused", ProviderRefusedError),
    (403, "validation_error", "refused", ProviderRefusedError),
    (400, "validation_error", "refused", UnclearRefusalError),
    (400, "invalid_idempotency_key", "refused", UnclearRefusalError),
    (402, "payment_required", "refused", ProviderRefusedError),
    (404, "not_found", "refused", ProviderRefusedError),
    (405, "method_not_allowed", "refused", ProviderRefusedError),
    (410, "gone", "refused", ProviderRefusedError),
    (413, "payload_too_large", "rejected", PermanentError),
    (418, "teapot", "refused", UnclearRefusalError),
    (422, "validation_error", "refused", UnclearRefusalError),
    (422, "missing_required_field", "refused", UnclearRefusalError),
    (422, "invalid_parameter", "refused", UnclearRefusalError),
    (422, "missing_required_parameter", "refused", UnclearRefusalError),
    (422, "invalid_attachment", "rejected", PermanentError),
    (422, "invalid_from_address", "refused", ProviderRefusedError),
    (451, "security_error", "refused", UnclearRefusalError),
]


def response(status: int, body: Any, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def refusal(status: int, name: str, message: str = "No.", **headers: str) -> Response:
    return response(status, {"statusCode": status, "name": name, "message": message}, **headers)


def error_of(classification: Classification) -> FlowstateError:
    assert classification.error is not None
    return classification.error


@pytest.mark.parametrize(("status", "name", "result", "error"), ROWS)
def test_documented_error_maps_to_its_class(status: int, name: str, result: str, error: type[FlowstateError]) -> None:
    """Each status and type of the provider's list gives the error that the table names, with the provider's message."""
    classification = classify(refusal(status, name, "Something is wrong."), NOW)
    assert (classification.result, type(classification.error), classification.error_type) == (result, error, name)
    assert f"Resend: Something is wrong. ({status} {name})" in error_of(classification).reason


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, HTML, "server_error"),
        (200, b"", "server_error"),
        (200, b'{"id":"abc', "server_error"),
        (200, {}, "server_error"),
        (200, {"id": ""}, "server_error"),
        (200, {"id": 5}, "server_error"),
        (200, {"data": [{"id": "a"}, {}]}, "server_error"),
        (200, {"statusCode": 422, "name": "validation_error", "message": "No."}, "server_error"),
        (200, {"statusCode": 500, "id": "abc"}, "server_error"),
        (204, b"", "server_error"),
        (500, b"", "server_error"),
        (502, HTML, "server_error"),
        (503, b"\xff\xfe", "server_error"),
        (409, HTML, "server_error"),
        (499, HTML, "server_error"),
        (400, HTML, "refused"),
        (422, {}, "refused"),
        (422, b"[]", "refused"),
        (429, HTML, "rate_limited"),
        (403, b"error code: 1010", "refused"),
        (401, HTML, "refused"),
        (407, HTML, "refused"),
        (404, HTML, "refused"),
        (405, b"", "refused"),
        (301, b"", "refused"),
        (308, HTML, "refused"),
        (413, HTML, "rejected"),
        (700, b"", "server_error"),
    ],
)
def test_response_that_is_not_from_the_provider(status: int, body: Any, expected: str) -> None:
    """A page, an empty or incomplete body or a contradiction leaves the outcome unknown, unless the status is clear."""
    result = classify(response(status, body, content_type="text/html; charset=utf-8"), NOW)
    assert result.result == expected
    assert str(status) in error_of(result).reason


ABOUT_ONE = [
    (422, "validation_error", "Invalid `to` field. The email address needs to follow the `a@b.c` format."),
    (400, "validation_error", "Missing `html` or `text` field."),
    (422, "missing_required_field", "Missing `subject` field."),
    (422, "validation_error", 'The "cc" field must be an array.'),
    (422, "invalid_attachment", "The attachment must have a name."),
    (413, "payload_too_large", "Too large."),
]
ABOUT_ALL = [
    (422, "validation_error", "Invalid `from` field. The email address needs to follow the `a@b.c` format."),
    (400, "validation_error", "Invalid 'from' field."),
    (422, "missing_required_field", "Missing `from` field."),
    (422, "validation_error", "The flowstate.dev domain is not verified."),
    (422, "invalid_from_address", "Invalid address."),
    (402, "payment_required", "Your plan has ended."),
    (404, "not_found", "The requested endpoint does not exist."),
    (405, "method_not_allowed", "Method is not allowed."),
    (410, "gone", "This version of the API has ended."),
    (401, "a_new_type", "No."),
    (403, "a_new_type", "No."),
]


@pytest.mark.parametrize(("status", "name", "message"), ABOUT_ONE)
def test_refusal_of_recipient_content_or_size_is_permanent(status: int, name: str, message: str) -> None:
    """It is about this email: no later try can succeed, and other emails are not concerned."""
    result = classify(refusal(status, name, message), NOW)
    assert (result.result, type(result.error)) == ("rejected", PermanentError)


@pytest.mark.parametrize(("status", "name", "message"), ABOUT_ALL)
def test_refusal_of_what_all_mails_share_is_not_about_one(status: int, name: str, message: str) -> None:
    """Sender, account, payment and endpoint are the same for all emails."""
    result = classify(refusal(status, name, message), NOW)
    assert (result.result, type(result.error)) == ("refused", ProviderRefusedError)


@pytest.mark.parametrize("status", [400, 401, 403, 406, 411, 415, 418, 421, 422, 426, 428, 431, 451])
@pytest.mark.parametrize(
    "body",
    [
        HTML,
        b"",
        b"[]",
        b"null",
        {"message": "Bad Request"},
        {"statusCode": 400, "message": "Bad Request", "error": "Bad Request"},
        {"name": "BadRequestError", "message": "Invalid `to` field"},
        {"name": "validation_error", "message": "Invalid `to` field", "statusCode": 599},
        {"name": 5, "message": "Invalid `to` field"},
        {"error": {"code": 400, "message": "No."}},
    ],
)
def test_refusal_by_another_program_closes_the_gate_at_once(status: int, body: Any) -> None:
    """An edge, a proxy or another API refuses all emails, whatever its words are; but it may be about the content."""
    result = error_of(classify(response(status, body), NOW))
    assert isinstance(result, UnclearRefusalError)
    assert result.max_in_a_row == 1


@pytest.mark.parametrize("status", [402, 404, 405, 407, 410])
@pytest.mark.parametrize("body", [HTML, b"", {"message": "Not Found"}, {"name": "NotFoundError", "message": "x"}])
def test_refused_endpoint_is_clear_whoever_answers(status: int, body: Any) -> None:
    """A wrong RESEND_API_URL, an ended payment or a proxy's login refuse every email."""
    assert type(error_of(classify(response(status, body), NOW))) is ProviderRefusedError


@pytest.mark.parametrize(
    ("status", "text"), [(404, "RESEND_API_URL"), (410, "RESEND_API_URL"), (402, "payment"), (301, "RESEND_API_URL")]
)
def test_reason_of_a_refusal_names_the_remedy(status: int, text: str) -> None:
    """Also with a message of the provider."""
    assert text in error_of(classify(refusal(status, "some_type", "Words."), NOW)).reason


def test_reason_of_a_refused_sender_names_the_setting() -> None:
    """The operator learns which setting is wrong."""
    assert (
        "RESEND_FROM_EMAIL" in error_of(classify(refusal(422, "validation_error", "Invalid `from` field."), NOW)).reason
    )


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_2xx_with_an_id_is_accepted(status: int) -> None:
    """Whatever the content type says."""
    assert classify(response(status, {"id": "abc"}, content_type="text/plain"), NOW) == Classification("accepted")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2", 2_000),
        (" 0.5 ", 500),
        ("0", 0),
        ("Mon, 02 Mar 2026 08:00:30 GMT", 30_000),
        ("Mon, 02 Mar 2026 07:00:00 GMT", 0),
        ("Mon, 02 Mar 2026 08:00:30 -0000", 30_000),
        ("soon", None),
        ("-1", None),
        ("1e9", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_parsed_as_seconds_or_date(text: str, ms: int | None) -> None:
    """Both forms count from now, the past is now, and an invalid value is ignored."""
    assert retry_after_ms({"retry-after": text}, NOW) == ms


@pytest.mark.parametrize(
    ("headers", "ms"),
    [
        ({"retry_after": "2"}, 2_000),
        ({"retry_after": "0"}, 100),
        ({"retry_after": "86400"}, 60_000),
        ({}, 1_000),
        ({"ratelimit_limit": "2", "ratelimit_remaining": "0", "ratelimit_reset": "3"}, 3_000),
    ],
)
def test_rate_limit_wait_is_bounded(headers: dict[str, str], ms: int) -> None:
    """The wait is `retry-after` within bounds, else the reset of the rate window, else a second."""
    limited = classify(refusal(429, "rate_limit_exceeded", **headers), NOW).error
    assert isinstance(limited, RateLimitedError)
    assert limited.after_ms == ms


@pytest.mark.parametrize(("text", "ms"), [("7", 7_000), ("999999", 300_000), ("never", 0)])
def test_retry_after_of_a_server_error_delays_the_retry(text: str, ms: int) -> None:
    """`retry-after` on a 5xx is the minimum delay of the retry, up to five minutes."""
    retry = classify(refusal(503, "service_unavailable", retry_after=text), NOW).error
    assert isinstance(retry, RetryableError)
    assert retry.after_ms == ms


def test_quota_error_names_the_reset() -> None:
    """An operator who reads the reason learns when emails will be sent again."""
    assert "00:00 UTC" in error_of(classify(refusal(429, "daily_quota_exceeded"), NOW)).reason
    assert "billing month" in error_of(classify(refusal(429, "monthly_quota_exceeded"), NOW)).reason


@pytest.mark.parametrize(
    ("name", "back"),
    [
        ("daily_quota_exceeded", datetime(2026, 3, 3, tzinfo=UTC)),
        ("monthly_quota_exceeded", datetime(2026, 3, 2, 9, 0, tzinfo=UTC)),
    ],
)
def test_quota_reset_time_depends_on_the_quota(name: str, back: datetime) -> None:
    """A daily quota is reset at midnight UTC; the reset of a monthly one is unknown, so try again in an hour."""
    result = error_of(classify(refusal(429, name), NOW))
    assert isinstance(result, QuotaExceededError)
    assert result.until_ms == back.timestamp() * 1000


def test_reused_key_error_says_that_the_provider_accepted_it() -> None:
    """The reason says so, so that the email is not sent again manually."""
    reason = error_of(classify(refusal(409, "invalid_idempotent_request"), NOW)).reason
    assert "another body" in reason
    assert "accepted it" in reason


@pytest.mark.parametrize(
    ("headers", "rate"),
    [
        (
            {"ratelimit-limit": "10", "ratelimit-remaining": "9", "ratelimit-reset": "1"},
            RateLimit(limit=10, remaining=9, reset_s=1.0),
        ),
        ({"ratelimit-limit": "10", "ratelimit-remaining": "9"}, None),
        ({"ratelimit-limit": "ten", "ratelimit-remaining": "9", "ratelimit-reset": "1"}, None),
        ({}, None),
    ],
)
def test_rate_headers_need_three_plain_numbers(headers: dict[str, str], rate: RateLimit | None) -> None:
    """Anything less gives no rate limit."""
    assert parse_rate_limit(headers) == rate


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Mail to <ada.l+x@example.org>, refused", "Mail to <a***@example.org>, refused"),
        ("see https://x.test/u?to=ada%40example.org now", "see https://x.test/u?to=*** now"),
        ("key re_AbCd_1234567890 is bad", "key [redacted] is bad"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: [redacted]"),
        ("your code 482913 and 482 913", "your code [redacted] and [redacted]"),
        ("line one\r\nBcc: x\x00\u2028end", "line one Bcc: x end"),
        ("link /unsubscribe/Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA", "link /unsubscribe/[redacted]"),
        ("error code: 1010", "error code: 1010"),
        (
            "Same idempotency key concurrent_idempotent_requests",
            "Same idempotency key concurrent_idempotent_requests",
        ),
    ],
)
def test_provider_text_is_redacted(text: str, redacted: str) -> None:
    """Addresses, keys, tokens, codes and control characters never reach a reason; ordinary words do."""
    assert redact_provider_text(text) == redacted


LOCAL = st.from_regex(r"[a-z][a-z0-9.+_-]{4,20}", fullmatch=True)


@given(before=st.text(max_size=40), local=LOCAL, after=st.sampled_from(["", " ", ">", ",", '"', "; x"]))
def test_redaction_removes_every_address(before: str, local: str, after: str) -> None:
    """Wherever an address is in the provider's message, its local part is not in our reason."""
    assert f"{local}@" not in redact_provider_text(f"{before} {local}@mail.dev{after}")


@given(before=st.text(max_size=40), code=st.from_regex(r"[0-9]{6}", fullmatch=True), after=st.text(max_size=40))
def test_redaction_removes_every_code(before: str, code: str, after: str) -> None:
    """No six-digit number of the provider's message is in our reason."""
    assert code not in redact_provider_text(f"{before}{code}{after}")


HEADER = st.one_of(st.text(max_size=20), st.integers().map(str), st.just("Mon, 02 Mar 2026 08:00:30 GMT"))
NAMES = ["retry-after", "content-type", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "data", "name", "message", "statusCode"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(
    status=st.integers(100, 999),
    headers=st.dictionaries(st.sampled_from(NAMES), HEADER),
    body=st.one_of(st.binary(max_size=60), ANYTHING.map(msgspec.json.encode)),
)
def test_any_response_is_classified(status: int, headers: dict[str, str], body: bytes) -> None:
    """No response, however strange, raises an exception or is accepted without an id; waits stay in bounds."""
    result = classify(Response(status, headers, body), NOW)
    if result.error is None:
        assert 200 <= status < 300
        assert is_acceptance(msgspec.json.decode(body))
        return
    assert len(result.error.reason) < 600
    assert result.error.reason.isprintable()
    if isinstance(result.error, RateLimitedError):
        assert 100 <= result.error.after_ms <= 60_000
    if isinstance(result.error, RetryableError):
        assert 0 <= result.error.after_ms <= 300_000


def rows(*ids: str) -> list[dict[str, str]]:
    return [{"id": one} for one in ids]


@pytest.mark.parametrize(
    ("content", "count", "expected"),
    [
        ({"id": "a"}, 1, ["a"]),
        ({"data": rows("a", "b")}, 2, ["a", "b"]),
        ({"data": rows("a", "b"), "errors": []}, 2, ["a", "b"]),
        ({"data": rows("a", "b"), "errors": None}, 2, ["a", "b"]),
        ({"data": rows("a", "c"), "errors": [{"index": 1, "message": "bad"}]}, 3, ["a", "!bad", "c"]),
        (
            {"data": rows("c"), "errors": [{"index": 1, "message": "y"}, {"index": 0, "message": "x"}]},
            3,
            ["!x", "!y", "c"],
        ),
        ({"data": [], "errors": [{"index": 0}]}, 1, ["!"]),
        ({"data": [{"id": "a"}, None], "errors": [{"index": 1, "message": "bad"}]}, 2, ["a", "!bad"]),
        ({"data": [{"id": "a"}, {"id": None}], "errors": [{"index": 1, "message": 7}]}, 2, ["a", "!"]),
        ({"id": "a"}, 2, None),
        ({"id": ""}, 1, None),
        ({"data": rows("a")}, 2, None),
        ({"data": rows("a", "b", "c")}, 2, None),
        ({"data": [{"id": "a"}, {}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": 2, "message": "one too far"}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": -1, "message": "bad"}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": "1", "message": "bad"}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": 0}, {"index": 0}]}, 2, None),
        ({"data": rows("a"), "errors": "bad"}, 2, None),
        ([], 1, None),
        (None, 1, None),
    ],
)
def test_results_are_matched_by_index(content: object, count: int, expected: list[str] | None) -> None:
    """Ids and rejections are matched with their emails; a response that does not fit gives no results."""
    results = parse_results(content, count, "resend")
    if expected is None:
        assert results is None
        return
    assert results == tuple(Rejected(text[1:]) if text[:1] == "!" else Accepted(text, "resend") for text in expected)


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_any_pattern_of_rejections_is_matched(accepted: list[bool]) -> None:
    """Whichever emails of a batch are rejected, each of the others gets its own id."""
    content = {
        "data": rows(*[f"id{index}" for index, is_accepted in enumerate(accepted) if is_accepted]),
        "errors": [
            {"index": index, "message": f"m{index}"} for index, is_accepted in enumerate(accepted) if not is_accepted
        ],
    }
    assert is_acceptance(content)
    results = parse_results(content, len(accepted), "resend")
    assert results == tuple(
        Accepted(f"id{index}", "resend") if is_accepted else Rejected(f"m{index}")
        for index, is_accepted in enumerate(accepted)
    )

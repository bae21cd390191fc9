"""The meaning of the provider's responses: status, headers and body in, a result for each email or an error out.

Pure: knows nothing of connections, jobs or the SDK. Reasons repeat the provider's message, after everything that it
may echo is redacted: addresses, keys, tokens, codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from flowstate_daemon.base.errors import (
    AlreadyAcceptedError,
    FlowstateError,
    PermanentError,
    ProviderRefusedError,
    QuotaExceededError,
    RateLimit,
    RateLimitedError,
    RequestInProgressError,
    ResultClass,
    RetryableError,
    UnclearRefusalError,
)
from flowstate_daemon.base.redaction import redact_provider_text
from flowstate_daemon.delivery.gateway import Rejected, Result
from flowstate_daemon.mail.message import Accepted

SUCCESS_STATUS = range(200, 300)
REDIRECT_STATUS = range(300, 400)
CLIENT_ERRORS = range(400, 500)
ENDPOINT_REFUSED = (404, 405, 410)
ACCOUNT_REFUSED = (401, 403)
PAYMENT_REQUIRED = 402
SECURITY_STATUS = 451

DEFAULT_RATE_LIMIT_WAIT_MS = (100, 1_000, 60_000)  # minimum, default without `retry-after`, maximum
MAX_RETRY_AFTER_MS = 300_000
IN_PROGRESS_WAIT_MS = 1_000
# The start of the billing month is unknown, and the plan may be enlarged at any time: try once an hour.
MONTHLY_QUOTA_MS = 3_600_000

# Error types whose meaning does not follow from the status alone.
BY_TYPE: Mapping[tuple[int, str], ResultClass] = {
    (409, "invalid_idempotent_request"): "already_accepted",
    (409, "concurrent_idempotent_requests"): "in_progress",
    (409, "resource_locked"): "in_progress",
    (429, "daily_quota_exceeded"): "quota_exceeded",
    (429, "monthly_quota_exceeded"): "quota_exceeded",
}
# Other 4xx say nothing about the cause, see `_unclear`.
BY_STATUS: Mapping[int, ResultClass] = {
    401: "refused",
    402: "refused",
    403: "refused",
    404: "refused",
    405: "refused",
    407: "refused",
    408: "server_error",
    409: "server_error",
    410: "refused",
    413: "rejected",
    425: "server_error",
    429: "rate_limited",
    499: "server_error",
}
SENDER_ERRORS = frozenset({"invalid_from_address"})
MAIL_ERRORS = frozenset({"invalid_attachment"})
# The members of an email that a validation message names. All emails have the same `from`.
SENDER_MEMBER = re.compile(r"[`'\"]from[`'\"]|\bdomain is not verified", re.IGNORECASE)
MAIL_MEMBER = re.compile(r"[`'\"](?:to|cc|bcc|subject|html|text|attachments?)[`'\"]", re.IGNORECASE)
VALIDATION_STATUS = (400, 422)
PROVIDER_TYPE = re.compile(r"[a-z]+(?:_[a-z]+)*")  # the form of the provider's error types; other APIs differ
# An edge or a security rule in front of the provider may refuse every request, whoever sends it: the first such
# refusal closes the send gate. An unknown error of the provider's own may be about one email.
MAX_EDGE_REFUSALS = 1
MAX_UNKNOWN_REFUSALS = 5
ERROR_BY_RESULT: Mapping[ResultClass, type[FlowstateError]] = {
    "refused": ProviderRefusedError,
    "rejected": PermanentError,
    "already_accepted": AlreadyAcceptedError,
}
REMEDIES: Mapping[tuple[int, str], str] = {
    (401, "missing_api_key"): "set RESEND_API_KEY",
    (401, "restricted_api_key"): "use a key that may send",
    (403, "restricted_api_key"): "use a key that may send",
    (403, "invalid_api_key"): "correct RESEND_API_KEY",
    (403, "validation_error"): "verify the sender's domain, or change RESEND_FROM_EMAIL",
    (403, ""): "the provider's edge rejected the request",
    (409, "invalid_idempotent_request"): "the provider has this key with another body, so it has accepted it",
    (429, "daily_quota_exceeded"): "the quota is reset at 00:00 UTC",
    (429, "monthly_quota_exceeded"): "the quota is reset with the next billing month or a larger plan",
}


@dataclass(frozen=True, slots=True)
class Response:
    """One complete HTTP response; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Classification:
    """The meaning of a response: a class for the metrics, and the error to raise unless the request was accepted."""

    result: ResultClass
    error: FlowstateError | None = None
    error_type: str = ""


def classify(response: Response, now: datetime) -> Classification:
    """The meaning of one response. `now` is needed only for a `retry-after` that is a date."""
    content = _parse_json(response.body)
    if response.status in SUCCESS_STATUS:
        return _classify_success(response, content)
    error_type, message = _error_type_and_message(content)
    from_provider = _is_from_provider(response.status, content)
    result = _result_class(response.status, error_type, message, from_provider=from_provider)
    reason = _reason(response, error_type, message)
    if result == "quota_exceeded":
        return Classification(result, QuotaExceededError(reason, until_ms=quota_reset_ms(error_type, now)), error_type)
    if result == "refused" and (max_in_a_row := _unclear(response.status, error_type, message, from_provider)):
        return Classification(result, UnclearRefusalError(reason, max_in_a_row=max_in_a_row), error_type)
    return Classification(result, _to_error(result, reason, response.headers, now), error_type)


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """The rate headers; None if one is missing or not a plain number."""
    names = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
    limit, remaining, reset = (_seconds(headers.get(name, "")) for name in names)
    if limit is None or remaining is None or reset is None:
        return None
    return RateLimit(int(limit), int(remaining), reset)


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """The `retry-after` header, seconds or date, in milliseconds from `now`; None if it is missing or invalid."""
    text = headers.get("retry-after", "").strip()
    seconds = _seconds(text)
    if seconds is not None:
        return int(seconds * 1000)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0, int((at - now).total_seconds() * 1000))


def quota_reset_ms(error_type: str, now: datetime) -> int:
    """When to try again after the quota was exceeded, Unix ms: a daily quota is reset with the next UTC day."""
    if error_type == "daily_quota_exceeded":
        now = (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return int(now.timestamp() * 1000)
    return int(now.timestamp() * 1000) + MONTHLY_QUOTA_MS


def _parse_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _error_type_and_message(content: object) -> tuple[str, str]:
    """Type and message of an error in JSON, as far as there are any."""
    if not isinstance(content, dict):
        return "", ""
    error_type, message = content.get("name"), content.get("message")
    return error_type if isinstance(error_type, str) else "", message if isinstance(message, str) else ""


def _is_from_provider(status: int, content: object) -> bool:
    """Whether an error has the form of the provider's own, and not of a proxy or of another API."""
    match content:
        case {"name": str(name), "message": str(), **more}:
            return bool(PROVIDER_TYPE.fullmatch(name)) and more.get("statusCode", status) == status
    return False


def _classify_success(response: Response, content: object) -> Classification:
    error_type, message = _error_type_and_message(content)
    failed = isinstance(content, dict) and content.get("statusCode") not in (None, 200)
    if is_acceptance(content) and not failed:
        return Classification("accepted")
    # A proxy answered, or the provider contradicts itself: the outcome is unknown.
    reason = _reason(response, error_type, message)
    return Classification("server_error", RetryableError(f"{reason}: it does not confirm the request"), error_type)


def _result_class(status: int, error_type: str, message: str, *, from_provider: bool) -> ResultClass:
    result = BY_TYPE.get((status, error_type)) or BY_STATUS.get(status)
    if result is not None:
        return result
    if status in REDIRECT_STATUS:
        return "refused"  # this address is not the provider's API, so every email would fail
    if status in CLIENT_ERRORS:
        return "rejected" if from_provider and _is_about_mail(status, error_type, message) else "refused"
    return "server_error"


def _is_about_sender(status: int, error_type: str, message: str) -> bool:
    return error_type in SENDER_ERRORS or (status in VALIDATION_STATUS and bool(SENDER_MEMBER.search(message)))


def _is_about_mail(status: int, error_type: str, message: str) -> bool:
    """Whether recipient, content or size of this email are the reason, so that other emails are not concerned."""
    if status not in VALIDATION_STATUS or _is_about_sender(status, error_type, message):
        return False
    return error_type in MAIL_ERRORS or bool(MAIL_MEMBER.search(message))


def _unclear(status: int, error_type: str, message: str, from_provider: bool) -> int:
    """How many refusals like this, in a row, concern all emails; 0 if already the first one certainly does."""
    if from_provider and _is_about_sender(status, error_type, message):
        return 0
    if status in BY_STATUS or status in REDIRECT_STATUS:
        # A firewall answers 403 to content that it does not like, and 401 for accounts of its own.
        return MAX_EDGE_REFUSALS if status in ACCOUNT_REFUSED and not from_provider else 0
    return MAX_UNKNOWN_REFUSALS if from_provider and status != SECURITY_STATUS else MAX_EDGE_REFUSALS


def _reason(response: Response, error_type: str, message: str) -> str:
    named = f"{response.status} {redact_provider_text(error_type)[:60]}".rstrip()
    if not (error_type or message):
        content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        content_type = redact_provider_text(content_type)[:40] or "no content type"
        text = f"Resend answered {named} with {'an empty body' if not response.body else content_type}"
    else:
        text = f"Resend: {redact_provider_text(message) or 'no message'} ({named})"
    if response.status in REDIRECT_STATUS or response.status in ENDPOINT_REFUSED:
        return f"{text}; check RESEND_API_URL"
    if _is_about_sender(response.status, error_type, message):
        return f"{text}; correct RESEND_FROM_EMAIL"
    if response.status == PAYMENT_REQUIRED:
        return f"{text}; the provider requires a payment: check the account's plan"
    remedy = REMEDIES.get((response.status, error_type))
    return f"{text}; {remedy}" if remedy else text


def _to_error(result: ResultClass, reason: str, headers: Mapping[str, str], now: datetime) -> FlowstateError:
    if result == "rate_limited":
        min_ms, default_ms, max_ms = DEFAULT_RATE_LIMIT_WAIT_MS
        after_ms = retry_after_ms(headers, now)
        if after_ms is None:
            rate_limit = parse_rate_limit(headers)
            after_ms = int(rate_limit.reset_s * 1000) if rate_limit else default_ms
        return RateLimitedError(reason, after_ms=min(max(after_ms, min_ms), max_ms))
    if result == "in_progress":
        return RequestInProgressError(reason, after_ms=max(retry_after_ms(headers, now) or 0, IN_PROGRESS_WAIT_MS))
    if result in ERROR_BY_RESULT:
        return ERROR_BY_RESULT[result](reason)
    return RetryableError(reason, after_ms=min(retry_after_ms(headers, now) or 0, MAX_RETRY_AFTER_MS))


def _seconds(text: str) -> float | None:
    """A plain number of at most nine digits; None for anything else."""
    return float(text) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text.strip()) else None


def is_acceptance(content: object) -> bool:
    """Whether the body confirms a request, or at least some of its emails."""
    match content:
        case {"id": str(mail_id)}:
            return bool(mail_id)
        case {"data": list(rows), **more}:
            return all(_id(row) or (more.get("errors") and row in (None, {}, {"id": None})) for row in rows)
    return False


def parse_results(content: object, count: int, provider: str) -> tuple[Result, ...] | None:
    """The result of each of `count` emails; None if the response does not fit the request."""
    match content:
        case {"id": str(mail_id)} if mail_id and count == 1:
            return (Accepted(mail_id, provider),)
        case {"data": list(rows), **more}:
            rejections = _rejections_by_index(more.get("errors") or [], count)
            return None if rejections is None else _match_results(rows, rejections, count, provider)
    return None


def _rejections_by_index(errors: Any, count: int) -> Mapping[int, str] | None:
    """The provider's message for each rejected email, by its index."""
    rejections: dict[int, str] = {}
    for error in errors if isinstance(errors, list) else [None]:
        match error:
            case {"index": int(index), **more} if 0 <= index < count and index not in rejections:
                message = more.get("message")
                rejections[index] = message if isinstance(message, str) else ""
            case _:
                return None
    return rejections


def _match_results(
    rows: Sequence[Any], rejections: Mapping[int, str], count: int, provider: str
) -> tuple[Result, ...] | None:
    """Ids come in the order of the request; a rejected email has no row, or a row without an id."""
    ids = [_id(row) for row in rows]
    if len(ids) == count - len(rejections) and rejections:
        accepted_ids = iter(ids)
        ids = [None if index in rejections else next(accepted_ids) for index in range(count)]
    if len(ids) != count or any(mail_id is None and index not in rejections for index, mail_id in enumerate(ids)):
        return None
    return tuple(
        Rejected(rejections[index]) if mail_id is None else Accepted(mail_id, provider)
        for index, mail_id in enumerate(ids)
    )


def _id(row: Any) -> str | None:
    return str(row["id"]) if isinstance(row, dict) and row.get("id") else None

"""What the provider's answers mean: status, headers and body in, a fate out.

Pure. Called by `transport` for every answer; knows nothing of connections, jobs or the SDK. Reasons repeat
the provider's own words, with everything masked that such words may echo: addresses, keys, tokens, codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import msgspec

from flowstate_daemon.base.errors import (
    AlreadyAcceptedError,
    FlowstateError,
    PermanentError,
    ProviderRefusedError,
    QuotaExceededError,
    RateLimitedError,
    RequestInProgressError,
    RetryableError,
)
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.delivery.gateway import Rejected, Result
from flowstate_daemon.mail.message import Accepted


def is_acceptance(content: object) -> bool:
    """Does this look like the acceptance of a request, be it of some of its mails only?"""
    match content:
        case {"id": str(one)}:
            return bool(one)
        case {"data": list(rows), **more}:
            return all(_id(row) or (more.get("errors") and row in (None, {}, {"id": None})) for row in rows)
    return False


def parse_results(content: object, count: int, provider: str) -> tuple[Result, ...] | None:
    """What became of each of `count` mails; None when the answer does not fit the request."""
    match content:
        case {"id": str(one)} if one and count == 1:
            return (Accepted(one, provider),)
        case {"data": list(rows), **more}:
            refused = _rejections_by_index(more.get("errors") or [], count)
            return None if refused is None else _match_results(rows, refused, count, provider)
    return None


def _rejections_by_index(errors: Any, count: int) -> Mapping[int, str] | None:
    """The provider's words on each refused mail, by its place."""
    refused: dict[int, str] = {}
    for error in errors if isinstance(errors, list) else [None]:
        match error:
            case {"index": int(index), **more} if 0 <= index < count and index not in refused:
                message = more.get("message")
                refused[index] = message if isinstance(message, str) else ""
            case _:
                return None
    return refused


def _match_results(
    rows: Sequence[Any], refused: Mapping[int, str], count: int, provider: str
) -> tuple[Result, ...] | None:
    """Ids stand in the order of the body; the refused have no row, or one without an id."""
    ids = [_id(row) for row in rows]
    if len(ids) == count - len(refused) and refused:
        following = iter(ids)
        ids = [None if place in refused else next(following) for place in range(count)]
    if len(ids) != count or any(one is None and place not in refused for place, one in enumerate(ids)):
        return None
    return tuple(Rejected(refused[place]) if one is None else Accepted(one, provider) for place, one in enumerate(ids))


def _id(row: Any) -> str | None:
    return str(row["id"]) if isinstance(row, dict) and row.get("id") else None


ResultClass = Literal[
    "accepted",
    "already_accepted",
    "in_progress",
    "server_error",
    "rate_limited",
    "quota_exceeded",
    "refused",
    "rejected",
    "timeout",
    "network_error",
]

SUCCESS_STATUS = range(200, 300)
REDIRECT_STATUS = range(300, 400)
CLIENT_ERRORS = range(400, 500)
UNKNOWN_ENDPOINT = (404, 405)

MAX_TEXT_LENGTH = 200
DEFAULT_RATE_LIMIT_WAIT_MS = (100, 1_000, 60_000)  # shortest, without a wish (the provider counts in seconds), longest
MAX_RETRY_AFTER_MS = 300_000
IN_PROGRESS_WAIT_MS = 1_000
# When the month of the account begins is not told, and a larger plan may be bought at any time: look once an hour.
MONTHLY_QUOTA_MS = 3_600_000

ADDRESS = re.compile(r"[^\s<>()\[\]\"',;:=]+(?:@|%40)[^\s<>()\[\]\"'`,;:]+", re.IGNORECASE)
SECRET = re.compile(r"\bBearer\s+\S+|\b(?:re|whsec)_\w{4,}|(?=[\w-]*\d)[\w-]{24,}", re.IGNORECASE)
CODE = re.compile(r"\d(?:[ -]?\d){4,}")

# What an error's type means where its status alone does not say it.
BY_TYPE: Mapping[tuple[int, str], ResultClass] = {
    (409, "invalid_idempotent_request"): "already_accepted",
    (409, "concurrent_idempotent_requests"): "in_progress",
    (409, "resource_locked"): "in_progress",
    (429, "daily_quota_exceeded"): "quota_exceeded",
    (429, "monthly_quota_exceeded"): "quota_exceeded",
}
BY_STATUS: Mapping[int, ResultClass] = {
    401: "refused",
    403: "refused",
    407: "refused",
    408: "server_error",
    409: "server_error",
    413: "rejected",
    425: "server_error",
    429: "rate_limited",
}
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
    (403, ""): "the provider's edge turned the request away",
    (409, "invalid_idempotent_request"): "the provider holds this key with another body, so it has accepted it",
    (429, "daily_quota_exceeded"): "the quota is back at 00:00 UTC",
    (429, "monthly_quota_exceeded"): "the quota is back with the next billing month or a larger plan",
}


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer, read to its end; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What the provider says of its request rate: `remaining` of `limit` until `reset_s` seconds from now."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Classification:
    """What an answer means: a class for the metrics, and the error to raise unless the mail was accepted."""

    result: ResultClass
    error: FlowstateError | None = None
    error_type: str = ""


def classify(answer: Response, now: datetime) -> Classification:
    """The meaning of one answer. `now` is needed only for a `retry-after` that is a date."""
    content = _content(answer.body)
    if answer.status in SUCCESS_STATUS:
        return _judge_success(answer, content)
    error_type, message = _error(content)
    word = _word(answer.status, error_type, spoken=bool(error_type or message))
    reason = _reason(answer, error_type, message)
    if word == "quota_exceeded":
        return Classification(word, QuotaExceededError(reason, until_ms=quota_reset_ms(error_type, now)), error_type)
    return Classification(word, _result(word, reason, answer.headers, now), error_type)


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """The rate headers, or None when one is absent or no plain number."""
    names = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
    limit, remaining, reset = (_seconds(headers.get(name, "")) for name in names)
    if limit is None or remaining is None or reset is None:
        return None
    return RateLimit(int(limit), int(remaining), reset)


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """The `retry-after` header, seconds or date, in milliseconds from `now`; None when it says nothing."""
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
    """When to ask again after a quota has been used up, Unix ms: a day's quota is back with the next UTC day."""
    if error_type == "daily_quota_exceeded":
        now = (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return int(now.timestamp() * 1000)
    return int(now.timestamp() * 1000) + MONTHLY_QUOTA_MS


def safe_text(text: str) -> str:
    """Foreign words that may be stored and shown: one line, cut, without addresses, keys, tokens or codes."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: MAX_TEXT_LENGTH * 4]).split())
    line = ADDRESS.sub(lambda match: mask_address(match[0]), line)
    line = CODE.sub("***", SECRET.sub("***", line))
    return line if len(line) <= MAX_TEXT_LENGTH else f"{line[:MAX_TEXT_LENGTH]}…"


def _content(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _error(content: object) -> tuple[str, str]:
    """Type and message of the provider's error; both empty when these are not the provider's words."""
    if not isinstance(content, dict):
        return "", ""
    error_type, message = content.get("name"), content.get("message")
    return error_type if isinstance(error_type, str) else "", message if isinstance(message, str) else ""


def _judge_success(answer: Response, content: object) -> Classification:
    error_type, message = _error(content)
    failed = isinstance(content, dict) and content.get("statusCode") not in (None, 200)
    if is_acceptance(content) and not failed:
        return Classification("accepted")
    # Somebody between us and the provider spoke, or the provider contradicts itself: the outcome is unknown.
    reason = _reason(answer, error_type, message)
    return Classification("server_error", RetryableError(f"{reason}: no acceptance in it"), error_type)


def _word(status: int, error_type: str, *, spoken: bool) -> ResultClass:
    word = BY_TYPE.get((status, error_type)) or BY_STATUS.get(status)
    if word is not None:
        return word
    if status in REDIRECT_STATUS or (status in UNKNOWN_ENDPOINT and not spoken):
        return "refused"  # this is not the provider's API, and no mail will find it there
    if status in CLIENT_ERRORS and spoken:
        return "rejected"
    return "server_error"


def _reason(answer: Response, error_type: str, message: str) -> str:
    named = f"{answer.status} {safe_text(error_type)[:60]}".rstrip()
    if not (error_type or message):
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        form = safe_text(kind)[:40] or "no content type"
        text = f"Resend answered {named} with {'an empty body' if not answer.body else form}"
    else:
        text = f"Resend: {safe_text(message) or 'no message'} ({named})"
    if answer.status in REDIRECT_STATUS or (answer.status in UNKNOWN_ENDPOINT and not message):
        return f"{text}; check RESEND_API_URL"
    remedy = REMEDIES.get((answer.status, error_type))
    return f"{text}; {remedy}" if remedy else text


def _result(word: ResultClass, reason: str, headers: Mapping[str, str], now: datetime) -> FlowstateError:
    if word == "rate_limited":
        shortest, usual, longest = DEFAULT_RATE_LIMIT_WAIT_MS
        request = retry_after_ms(headers, now)
        if request is None:
            rate = parse_rate_limit(headers)
            request = int(rate.reset_s * 1000) if rate else usual
        return RateLimitedError(reason, after_ms=min(max(request, shortest), longest))
    if word == "in_progress":
        return RequestInProgressError(reason, after_ms=max(retry_after_ms(headers, now) or 0, IN_PROGRESS_WAIT_MS))
    if word in ERROR_BY_RESULT:
        return ERROR_BY_RESULT[word](reason)
    return RetryableError(reason, after_ms=min(retry_after_ms(headers, now) or 0, MAX_RETRY_AFTER_MS))


def _seconds(text: str) -> float | None:
    """A plain number of at most nine digits: what a header may say; anything else is no number here."""
    return float(text) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text.strip()) else None

"""What the provider's answers mean: status, headers and body in, a fate out.

Pure. Called by `transport` for every answer; knows nothing of connections, jobs or the SDK. Reasons repeat
the provider's own words, with everything masked that such words may echo: addresses, keys, tokens, codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import msgspec

from flowstate_daemon.base.errors import (
    AcceptedEarlier,
    Final,
    FlowstateError,
    InProgress,
    LaneClosed,
    QuotaExhausted,
    Retry,
    Throttled,
)
from flowstate_daemon.base.privacy import masked
from flowstate_daemon.delivery.receipts import is_receipt

Word = Literal[
    "accepted",
    "earlier",
    "in_progress",
    "retry",
    "throttled",
    "quota",
    "closed",
    "final",
    "timeout",
    "network",
]

SUCCESS = range(200, 300)
REDIRECTION = range(300, 400)
REFUSAL = range(400, 500)
NOWHERE = (404, 405)

LONGEST_WORDS = 200
THROTTLE_MS = (100, 1_000, 60_000)  # shortest, without a wish (the provider counts in seconds), longest
LONGEST_RETRY_MS = 300_000
IN_PROGRESS_MS = 1_000
# When the month of the account begins is not told, and a larger plan may be bought at any time: look once an hour.
MONTHLY_QUOTA_MS = 3_600_000

ADDRESS = re.compile(r"[^\s<>()\[\]\"',;:=]+(?:@|%40)[^\s<>()\[\]\"'`,;:]+", re.IGNORECASE)
SECRET = re.compile(r"\bBearer\s+\S+|\b(?:re|whsec)_\w{4,}|(?=[\w-]*\d)[\w-]{24,}", re.IGNORECASE)
CODE = re.compile(r"\d(?:[ -]?\d){4,}")

# What an error's type means where its status alone does not say it.
BY_TYPE: Mapping[tuple[int, str], Word] = {
    (409, "invalid_idempotent_request"): "earlier",
    (409, "concurrent_idempotent_requests"): "in_progress",
    (409, "resource_locked"): "in_progress",
    (429, "daily_quota_exceeded"): "quota",
    (429, "monthly_quota_exceeded"): "quota",
}
BY_STATUS: Mapping[int, Word] = {
    401: "closed",
    403: "closed",
    407: "closed",
    408: "retry",
    409: "retry",
    413: "final",
    425: "retry",
    429: "throttled",
}
PLAIN: Mapping[Word, type[FlowstateError]] = {"closed": LaneClosed, "final": Final, "earlier": AcceptedEarlier}
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
class Answer:
    """One HTTP answer, read to its end; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Rate:
    """What the provider says of its request rate: `remaining` of `limit` until `reset_s` seconds from now."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means: a class for the metrics, and the error to raise unless the mail was accepted."""

    word: Word
    fate: FlowstateError | None = None
    error_type: str = ""


def judge(answer: Answer, now: datetime) -> Verdict:
    """The meaning of one answer. `now` is needed only for a `retry-after` that is a date."""
    content = _content(answer.body)
    if answer.status in SUCCESS:
        return _judge_success(answer, content)
    error_type, message = _error(content)
    word = _word(answer.status, error_type, spoken=bool(error_type or message))
    reason = _reason(answer, error_type, message)
    if word == "quota":
        return Verdict(word, QuotaExhausted(reason, until_ms=quota_back_ms(error_type, now)), error_type)
    return Verdict(word, _fate(word, reason, answer.headers, now), error_type)


def read_rate(headers: Mapping[str, str]) -> Rate | None:
    """The rate headers, or None when one is absent or no plain number."""
    names = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
    limit, remaining, reset = (_seconds(headers.get(name, "")) for name in names)
    if limit is None or remaining is None or reset is None:
        return None
    return Rate(int(limit), int(remaining), reset)


def wait_ms(headers: Mapping[str, str], now: datetime) -> int | None:
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


def quota_back_ms(error_type: str, now: datetime) -> int:
    """When to ask again after a quota has been used up, Unix ms: a day's quota is back with the next UTC day."""
    if error_type == "daily_quota_exceeded":
        now = (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return int(now.timestamp() * 1000)
    return int(now.timestamp() * 1000) + MONTHLY_QUOTA_MS


def safe_words(text: str) -> str:
    """Foreign words that may be stored and shown: one line, cut, without addresses, keys, tokens or codes."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: LONGEST_WORDS * 4]).split())
    line = ADDRESS.sub(lambda match: masked(match[0]), line)
    line = CODE.sub("***", SECRET.sub("***", line))
    return line if len(line) <= LONGEST_WORDS else f"{line[:LONGEST_WORDS]}…"


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


def _judge_success(answer: Answer, content: object) -> Verdict:
    error_type, message = _error(content)
    failed = isinstance(content, dict) and content.get("statusCode") not in (None, 200)
    if is_receipt(content) and not failed:
        return Verdict("accepted")
    # Somebody between us and the provider spoke, or the provider contradicts itself: the outcome is unknown.
    reason = _reason(answer, error_type, message)
    return Verdict("retry", Retry(f"{reason}: no acceptance in it"), error_type)


def _word(status: int, error_type: str, *, spoken: bool) -> Word:
    word = BY_TYPE.get((status, error_type)) or BY_STATUS.get(status)
    if word is not None:
        return word
    if status in REDIRECTION or (status in NOWHERE and not spoken):
        return "closed"  # this is not the provider's API, and no mail will find it there
    if status in REFUSAL and spoken:
        return "final"
    return "retry"


def _reason(answer: Answer, error_type: str, message: str) -> str:
    named = f"{answer.status} {safe_words(error_type)[:60]}".rstrip()
    if not (error_type or message):
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        form = safe_words(kind)[:40] or "no content type"
        words = f"Resend answered {named} with {'an empty body' if not answer.body else form}"
    else:
        words = f"Resend: {safe_words(message) or 'no message'} ({named})"
    if answer.status in REDIRECTION or (answer.status in NOWHERE and not message):
        return f"{words}; check RESEND_API_URL"
    remedy = REMEDIES.get((answer.status, error_type))
    return f"{words}; {remedy}" if remedy else words


def _fate(word: Word, reason: str, headers: Mapping[str, str], now: datetime) -> FlowstateError:
    if word == "throttled":
        shortest, usual, longest = THROTTLE_MS
        wish = wait_ms(headers, now)
        if wish is None:
            rate = read_rate(headers)
            wish = int(rate.reset_s * 1000) if rate else usual
        return Throttled(reason, after_ms=min(max(wish, shortest), longest))
    if word == "in_progress":
        return InProgress(reason, after_ms=max(wait_ms(headers, now) or 0, IN_PROGRESS_MS))
    if word in PLAIN:
        return PLAIN[word](reason)
    return Retry(reason, after_ms=min(wait_ms(headers, now) or 0, LONGEST_RETRY_MS))


def _seconds(text: str) -> float | None:
    """A plain number of at most nine digits: what a header may say; anything else is no number here."""
    return float(text) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text.strip()) else None

"""The rules of Resend's API as documented: error shapes, validation, rate windows, quotas, idempotency keys.

Pure except for the clock. Used by `fake_resend` only.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flowstate_daemon.base.clock import Clock

MAX_RECIPIENTS = 50
MAX_BATCH_SIZE = 100
KEY_LIFETIME_MS = 24 * 3600 * 1000

BARE = r"[^\s<>@,;:\"()\[\]]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\.[A-Za-z]{2,}"
ADDRESS = re.compile(rf"(?:[^<>\r\n]*<(?P<named>{BARE})>|(?P<bare>{BARE}))")
TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
DUMMY_DOMAINS = ("example.com", "test.com")


class RequestRejectedError(Exception):
    """An error response of the API."""

    def __init__(self, status: int, name: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.message = message
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        return {"statusCode": self.status, "name": self.name, "message": self.message}


def invalid(member: str, reason: str) -> RequestRejectedError:
    return RequestRejectedError(422, "validation_error", f"Invalid `{member}` field. {reason}")


def missing(member: str) -> RequestRejectedError:
    return RequestRejectedError(422, "missing_required_field", f"Missing `{member}` field.")


def plain_address(text: object, member: str) -> str:
    """The bare address in `a@b.c` or `Name <a@b.c>`."""
    match = ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise invalid(
            member,
            "The email address needs to follow the `email@example.com` or `Name <email@example.com>` format.",
        )
    return match["named"] or match["bare"]


def recipients(mail: dict[str, Any], member: str, *, refuse_dummies: bool) -> list[str]:
    value = mail.get(member)
    listed = value if isinstance(value, list) else [value]
    if not listed or len(listed) > MAX_RECIPIENTS:
        raise invalid(member, f"There must be 1 to {MAX_RECIPIENTS} recipients.")
    plain = [plain_address(one, member) for one in listed]
    if refuse_dummies and any(one.rpartition("@")[2].lower() in DUMMY_DOMAINS for one in plain):
        raise invalid(member, "Please use our testing email address instead of domains like `example.com`.")
    return plain


def check_extras(mail: dict[str, Any]) -> None:
    headers, tags = mail.get("headers", {}), mail.get("tags", [])
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise invalid("headers", "It must be an object of strings.")
    if not isinstance(tags, list):
        raise invalid("tags", "It must be a list.")
    for tag in tags:
        parts = (tag.get("name"), tag.get("value")) if isinstance(tag, dict) else (None,)
        if not all(isinstance(part, str) and TAG.fullmatch(part) for part in parts):
            raise invalid("tags", "Tags should only contain ASCII letters, numbers, underscores, or dashes.")


def check_mail(mail: object, *, verified: set[str] | None, refuse_dummies: bool, batch: bool = False) -> list[str]:
    """All recipients of a valid mail. Raises RequestRejectedError."""
    if not isinstance(mail, dict):
        raise RequestRejectedError(400, "validation_error", "The body must be a JSON object.")
    for member in ("from", "to", "subject"):
        if not mail.get(member):
            raise missing(member)
    if not isinstance(mail["subject"], str) or "\n" in mail["subject"] or "\r" in mail["subject"]:
        raise invalid("subject", "It must be one line of text.")
    if not any(isinstance(mail.get(member), str) and mail[member] for member in ("html", "text")):
        raise RequestRejectedError(422, "validation_error", "Missing `html` or `text` field.")
    if batch and "attachments" in mail:
        raise invalid("attachments", "It is not supported in batch.")
    domain = plain_address(mail["from"], "from").rpartition("@")[2].lower()
    addresses = [
        one
        for member in ("to", "cc", "bcc")
        if member == "to" or member in mail
        for one in recipients(mail, member, refuse_dummies=refuse_dummies)
    ]
    check_extras(mail)
    if verified is not None and domain not in verified:
        text = f"The {domain} domain is not verified. Please, add and verify your domain on https://resend.com/domains"
        raise RequestRejectedError(403, "validation_error", text)
    return addresses


@dataclass(slots=True)
class RateWindow:
    """Requests of one team in fixed windows, one second each; `limit` None is no limit."""

    clock: Clock
    limit: int | None = None
    started: int = -1
    used: int = 0

    def admit(self) -> dict[str, str]:
        """Count one request; its rate headers. Raises RequestRejectedError."""
        if self.limit is None:
            return {}
        window = int(self.clock.monotonic())
        if window != self.started:
            self.started, self.used = window, 0
        self.used += 1
        headers = {
            "ratelimit-limit": str(self.limit),
            "ratelimit-remaining": str(max(0, self.limit - self.used)),
            "ratelimit-reset": "1",
        }
        if self.used > self.limit:
            text = f"Too many requests. You can only make {self.limit} requests per second."
            raise RequestRejectedError(429, "rate_limit_exceeded", text, headers | {"retry-after": "1"})
        return headers


@dataclass(slots=True)
class Quotas:
    """Recipients a UTC day and a month; None is no quota. Headers report the amount used."""

    clock: Clock
    daily: int | None = None
    monthly: int | None = None
    used: dict[str, int] = field(default_factory=dict)

    def spend(self, count: int) -> dict[str, str]:
        """Book `count` recipients; the quota headers. Raises RequestRejectedError, and then books nothing."""
        today = self.clock.now().date()
        day, month = today.isoformat(), today.isoformat()[:7]
        for name, quota, period in (("daily", self.daily, day), ("monthly", self.monthly, month)):
            if quota is not None and self.used.get(period, 0) + count > quota:
                until = today + timedelta(days=1)
                text = f"You have reached your {name} email sending quota."
                raise RequestRejectedError(429, f"{name}_quota_exceeded", text, {"x-fake-day-ends": until.isoformat()})
        for period in (day, month):
            self.used[period] = self.used.get(period, 0) + count
        shown = {"x-resend-monthly-quota": str(self.used[month])}
        return shown if self.daily is None else shown | {"x-resend-daily-quota": str(self.used[day])}


@dataclass(slots=True)
class KeyMemory:
    """Idempotency keys: the first good answer of each is kept for 24 h, failures are not."""

    clock: Clock
    answers: dict[str, tuple[bytes, bytes, int]] = field(default_factory=dict)
    in_progress: set[str] = field(default_factory=set)

    @staticmethod
    def print_of(path: str, body: bytes) -> bytes:
        return hashlib.sha256(path.encode() + b"\0" + body).digest()

    def recall(self, key: str | None, fingerprint: bytes) -> bytes | None:
        """The kept answer to the same request, if there is one. Raises RequestRejectedError."""
        if key is None:
            return None
        if not 1 <= len(key) <= 256:
            raise RequestRejectedError(400, "invalid_idempotency_key", "The key must be between 1-256 chars.")
        if key in self.in_progress:
            text = "Same idempotency key used while original request is still in progress."
            raise RequestRejectedError(409, "concurrent_idempotent_requests", text)
        known = self.answers.get(key)
        if known is None or known[2] + KEY_LIFETIME_MS <= self.clock.now_ms():
            return None
        if known[0] != fingerprint:
            text = "Same idempotency key used with a different request payload."
            raise RequestRejectedError(409, "invalid_idempotent_request", text)
        return known[1]

    def keep(self, key: str | None, fingerprint: bytes, answer: bytes) -> None:
        if key is not None:
            self.answers[key] = (fingerprint, answer, self.clock.now_ms())

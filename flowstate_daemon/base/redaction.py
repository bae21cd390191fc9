"""Redaction of codes, keys, passwords and addresses, and escaping of control characters. Pure.

Used by `base/logs.py` for every event, by `web` for public pages, and wherever an address is shown. In doubt it hides
too much, because logs are kept long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

REDACTED = "[redacted]"
MAX_TEXT_LENGTH = 4_096  # characters of one value: a hostile job name must not fill the disk
MAX_DEPTH = 4  # levels of a nested value that are shown
MAX_ITEMS = 50  # members of one nested value that are shown

SECRET_NAMES = frozenset({"code", "cookie", "setcookie", "signature"})
SECRET_ENDINGS = ("otpcode", "password", "passwd", "token", "secret", "apikey", "authorization")
PLAIN_TYPES = frozenset({int, float, bool, type(None)})

# `otpCode: 1`, `"token":"x"`, `{\"password\":\"x\"}`, `api_key='x'`. The name `code` alone is secret only as a key,
# because operators look for texts such as "code: 404".
SECRET_HINT = (
    "code",
    "passw",
    "key",
    "secret",
    "token",
    "auth",
    "cookie",
    "signature",
)  # checked before the pattern, which is ten times slower
ASSIGNMENT_PATTERN = re.compile(
    r"""((?:otp_?code|passw(?:or)?d|api[_-]?key|secret|token|authorization|cookie|signature)\\*["']?\s{0,4}[=:]\s{0,4}
        |["']code\\*["']\s{0,4}:\s{0,4}|(?<!\w)code=)
        (?:(?:bearer|basic)\s+)?
        (?:"(?:[^"\\]|\\.)*+"?|'(?:[^'\\]|\\.)*+'?|\\+["'][^"'\\]*+(?:\\+["'])?|[^\s,;&})\]"'\\]++)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
BEARER = re.compile(r"\b(bearer)\s+[\w.~+/=-]+", re.IGNORECASE)
PROVIDER_KEY = re.compile(r"(?<![A-Za-z0-9])re_[A-Za-z0-9_-]{6,}")
LOGIN_IN_URL = re.compile(r"://[^\s/@]*+@")
ADDRESS = re.compile(r"(?<![\w.!#$%&*+?^`{|}~-])[\w.!#$%&*+?^`{|}~-]++@[\w.-]+")
# Not escaped by JSON, but interpreted by terminals or rejected by encoders: C1 controls, line and paragraph
# separators, direction marks, lone surrogates.
CONTROL_CHARS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def mask_address(address: str) -> str:
    """An address as it may be logged: first letter and domain only, no control characters.

    >>> mask_address("ada@example.org")
    'a***@example.org'
    """
    local, _, domain = address.rpartition("@")
    shown = f"{local[:1]}***@{domain}" if local else "***"
    return "".join(char if char.isprintable() else "?" for char in shown)[:120]


def escape_control_chars(text: str) -> str:
    """Text with every unprintable character as an escape sequence: no colours, no second line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def redact_text(text: str) -> str:
    """Free text without keys, passwords, named codes and full addresses, cut to MAX_TEXT_LENGTH."""
    if len(text) > MAX_TEXT_LENGTH:
        text = text[:MAX_TEXT_LENGTH] + "…"
    if not text.isprintable():
        text = CONTROL_CHARS.sub(lambda found: _escape(found[0]), text)
    if (":" in text or "=" in text) and any(word in text.lower() for word in SECRET_HINT):
        text = ASSIGNMENT_PATTERN.sub(rf"\1{REDACTED}", text)
    if "earer" in text or "EARER" in text:
        text = BEARER.sub(rf"\1 {REDACTED}", text)
    if "re_" in text:
        text = PROVIDER_KEY.sub(f"re_{REDACTED}", text)
    if "@" in text:
        text = LOGIN_IN_URL.sub(f"://{REDACTED}@", text)
        text = ADDRESS.sub(lambda found: mask_address(found[0]), text)
    return text


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name, in any spelling, contains a secret."""
    bare = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    return bare in SECRET_NAMES or bare.endswith(SECRET_ENDINGS)


def redact_value(name: str, value: Any, depth: int = 0) -> Any:
    """The value of one field without secrets, in JSON types."""
    if is_secret_name(name):
        return REDACTED
    kind = type(value)
    if kind is str:
        return redact_text(value)
    return value if kind in PLAIN_TYPES else _redact_members(value, depth + 1)


def _redact_members(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        members = islice(value.items(), MAX_ITEMS)
        return {redact_text(str(key)): redact_value(str(key), member, depth) for key, member in members}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value("", member, depth) for member in islice(value, MAX_ITEMS)]
    return redact_text(_to_text(value))


def _to_text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value[:MAX_TEXT_LENGTH]).decode("utf-8", "backslashreplace")
    try:
        return str(value) if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - a failing `repr` must not lose the log line
        return f"<{type(value).__name__}>"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")

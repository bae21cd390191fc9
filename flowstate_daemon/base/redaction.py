"""Redaction of codes, keys, passwords and addresses, and escaping of control characters. Pure.

Everything that hides secrets is in this module: for logs (`redact_value`), free text (`redact_text`), the provider's
messages (`redact_provider_text`), job data that is shown (`redact_json`), and one-time codes in the data that a
settled job keeps (`redact_code_fields`; in Lua `redact.lua`, which gets `CODE_RULES_JSON`). In doubt it hides too
much, because logs are kept long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

REDACTED = "[redacted]"
MAX_TEXT_LENGTH = 4_096  # characters of one value: a hostile job name must not fill the disk
MAX_PROVIDER_TEXT_LENGTH = 200
MAX_DEPTH = 4  # levels of a nested value that are shown
MAX_ITEMS = 50  # members of one nested value that are shown

# Names of one-time codes. Only these are removed from the data of settled jobs: a job that is retried needs the rest.
CODE_NAMES = ("otp-code",)
# The one list of secret names, with a hyphen between the parts of a name. A field is secret if its name ends with one
# of them in any spelling: `otpCode`, `OTP_CODE`, `x-otp-code`. Every pattern below is built from this list.
SECRET_NAMES = (
    *CODE_NAMES,
    *("password", "passwd", "secret", "token", "api-key"),
    *("authorization", "cookie", "credential", "signature"),
)
# Secret only as the whole name, because `status_code`, "code: 404" and `bypass` are not.
WHOLE_SECRET_NAMES = ("code", "pass", "pin")
# Parts of names that are hidden in data of other producers. Our own logs may name the kind `otp`.
SECRET_PARTS = (*SECRET_NAMES, "code", "otp", "pass")
PLAIN_TYPES = frozenset({int, float, bool, type(None)})


def _alternatives(names: tuple[str, ...]) -> str:
    return "|".join(re.escape(name).replace(r"\-", "[_-]?") for name in names)


SECRET_ENDINGS = tuple(name.replace("-", "") for name in SECRET_NAMES)
CODE_ENDINGS = tuple(name.replace("-", "") for name in CODE_NAMES)
# What `redact.lua` needs to redact the data of the jobs that it fails.
CODE_RULES_JSON = json.dumps({"endings": CODE_ENDINGS, "placeholder": REDACTED})

# The last word of each name, checked before the pattern, which is ten times slower.
SECRET_HINTS = tuple(name.rpartition("-")[2] for name in (*SECRET_NAMES, *WHOLE_SECRET_NAMES))
CODE_HINTS = tuple({name.rpartition("-")[2].encode() for name in CODE_NAMES})
# `otpCode: 1`, `"token":"x"`, `{\"password\":\"x\"}`, `api_key='x'`. A value that is redacted already stays as it is.
ASSIGNMENT_PATTERN = re.compile(
    rf"""((?:{_alternatives(SECRET_NAMES)})\\*["']?\s{{0,4}}[=:]\s{{0,4}}
        |["'](?:{_alternatives(WHOLE_SECRET_NAMES)})\\*["']\s{{0,4}}:\s{{0,4}}
        |(?<!\w)(?:{_alternatives(WHOLE_SECRET_NAMES)})=)
        (?:(?:bearer|basic)\s+)?
        (?:{re.escape(REDACTED)}
        |"(?:[^"\\]|\\.)*+"?|'(?:[^'\\]|\\.)*+'?|\\+["'][^"'\\]*+(?:\\+["'])?|[^\s,;&}})\]"'\\]++)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
SECRET_SETTING = re.compile(rf"((?:{_alternatives(SECRET_NAMES)})):(?=\s)", re.IGNORECASE)
BEARER = re.compile(r"\b(bearer)\s+[\w.~+/=-]+", re.IGNORECASE)
PROVIDER_KEY = re.compile(r"(?<![A-Za-z0-9])re_[A-Za-z0-9_-]{6,}")
LOGIN_IN_URL = re.compile(r"://[^\s/@]*+@")
ADDRESS = re.compile(r"(?<![\w.!#$%&*+?^`{|}~-])[\w.!#$%&*+?^`{|}~-]++@[\w.-]+")
# Not escaped by JSON, but interpreted by terminals or rejected by encoders: C1 controls, line and paragraph
# separators, direction marks, lone surrogates.
CONTROL_CHARS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# The provider may repeat anything from a request, so its messages are redacted by form as well as by name.
PROVIDER_ADDRESS = re.compile(r"[^\s<>()\[\]\"',;:=]+(?:@|%40)[^\s<>()\[\]\"'`,;:]+", re.IGNORECASE)
PROVIDER_SECRET = re.compile(r"\bBearer\s+\S+|\b(?:re|whsec)_\w{4,}|(?=[\w-]*\d)[\w-]{24,}", re.IGNORECASE)
HTML_ADDRESS = re.compile(r"[\w.!#$%*+/=?^`|~'-]+@(?:[\w-]+\.)+[\w-]+")
PROVIDER_CODE = re.compile(r"\d(?:[ -]?\d){4,}")

NAME_OF_OTHERS = re.compile(rf"{_alternatives(SECRET_PARTS)}|(^|[_-])pin$", re.IGNORECASE)
LINK_PARAMETER = re.compile(
    rf"([?&;#](?:[\w-]*(?:{_alternatives(SECRET_PARTS)}|key|sig)[\w-]*|pin)=)[^&;#\s\"']+", re.IGNORECASE
)


def mask_address(address: str) -> str:
    """An address as it may be logged: first letter and domain only, no control characters.

    >>> mask_address("ada@example.org")
    'a***@example.org'
    """
    local, _, domain = address.rpartition("@")
    shown = f"{local[:1]}***@{domain}" if local else "***"
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else "?" for char in shown)
    return shown[:120]


def mask_addresses(value: Any) -> Any:
    """A copy of JSON whose texts show no full address."""
    if isinstance(value, dict):
        return {name: mask_addresses(part) for name, part in value.items()}
    if isinstance(value, list):
        return [mask_addresses(part) for part in value]
    if isinstance(value, str) and "@" in value:
        return ADDRESS.sub(lambda found: mask_address(found[0]), value)
    return value


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
    text = _redact_assignments(text)
    if "earer" in text or "EARER" in text:
        text = BEARER.sub(rf"\1 {REDACTED}", text)
    if "re_" in text:
        text = PROVIDER_KEY.sub(f"re_{REDACTED}", text)
    if "@" in text:
        text = LOGIN_IN_URL.sub(f"://{REDACTED}@", text)
        text = ADDRESS.sub(lambda found: mask_address(found[0]), text)
    return text


def keep_mistake(error: str) -> str:
    """An error of the configuration in a form that `redact_text` leaves whole.

    `RESEND_API_KEY: must be …` looks like a key with a value. Such errors name the setting and never its value.
    """
    return SECRET_SETTING.sub(r"\1 -", error)


def redact_codes(text: str) -> str:
    """Text without groups of digits that may be a one-time code: for what was written about an email with a code."""
    return PROVIDER_CODE.sub(REDACTED, text)


def mask_addresses_in_html(html: str) -> str:
    """HTML with every address masked. An address needs a dot in its domain here: a style sheet has `@media`."""
    return HTML_ADDRESS.sub(lambda found: mask_address(found[0]), html) if "@" in html else html


def escape_marks(text: str) -> str:
    """Text without characters that change how the text around them is shown; line breaks stay."""
    return text if text.isprintable() else CONTROL_CHARS.sub(lambda found: _escape(found[0]), text)


def redact_provider_text(text: str) -> str:
    """The provider's text in a form that may be stored and shown: one short line without addresses, keys or codes."""
    limit = MAX_PROVIDER_TEXT_LENGTH
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: limit * 4]).split())
    line = PROVIDER_ADDRESS.sub(lambda found: mask_address(found[0]), line)
    line = PROVIDER_CODE.sub(REDACTED, PROVIDER_SECRET.sub(REDACTED, _redact_assignments(line)))
    return line if len(line) <= limit else f"{line[:limit]}…"


def _redact_assignments(text: str) -> str:
    """Text without the values behind secret names."""
    if ":" not in text and "=" not in text:
        return text
    lowered = text.lower()
    if any(hint in lowered for hint in SECRET_HINTS):
        return ASSIGNMENT_PATTERN.sub(rf"\1{REDACTED}", text)
    return text


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name, in any spelling, contains a secret."""
    bare = _bare(name)
    return bare in WHOLE_SECRET_NAMES or bare.endswith(SECRET_ENDINGS)


def is_code_name(name: str) -> bool:
    """Whether a field of this name, in any spelling, contains a one-time code."""
    return _bare(name).endswith(CODE_ENDINGS)


def may_contain_code(data: bytes) -> bool:
    """Whether JSON text may contain a field with the name of a one-time code; False is certain."""
    lowered = data.lower()
    return any(hint in lowered for hint in CODE_HINTS)


def redact_code_fields(value: Any) -> Any:
    """A copy of parsed JSON in which the values of fields that contain a one-time code are replaced, at any depth."""
    if isinstance(value, dict):
        return {name: REDACTED if is_code_name(name) else redact_code_fields(part) for name, part in value.items()}
    return [redact_code_fields(part) for part in value] if isinstance(value, list) else value


def redact_json(value: Any, *, secret: bool = False) -> Any:
    """A copy of other producers' JSON, for display: what may be secret by its name is hidden, and the shape stays.

    It also hides names that only contain a secret name, and the parameters of links.
    """
    if isinstance(value, dict):
        return {
            name: redact_json(part, secret=secret or bool(NAME_OF_OTHERS.search(name))) for name, part in value.items()
        }
    if isinstance(value, list):
        return [redact_json(part, secret=secret) for part in value]
    if secret and value not in (None, "", True, False):
        return REDACTED
    return LINK_PARAMETER.sub(rf"\g<1>{REDACTED}", value) if isinstance(value, str) else value


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

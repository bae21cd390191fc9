"""The types of settings: each validates a value, and its error says what is expected.

The sections of `settings` use them. No message contains the value, which may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from flowstate_daemon.base.address import parse_mailbox
from flowstate_daemon.base.cron import next_occurrence, parse_cron, parse_zone
from flowstate_daemon.base.text import is_harmless_line

INVALID_KEY_CHARS = re.compile(r"[\s@*?\[\]\\\x00-\x1f\x7f]")
PRINTABLE = re.compile(r"[\x21-\x7e]+")
LINK_CHARS = re.compile(r"(?:/|https?://)[^\s<>\"'`\\\x00-\x20\x7f-\uffff]*")
MAX_LINE_LENGTH = 200
MIN_SECRET_LENGTH = 32
SENTINEL_PORT = 26379
DEADLINE_PATTERN = re.compile(
    r"(?:(?P<day>mon|tue|wed|thu|fri|sat|sun) )?(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)", re.IGNORECASE
)
REFERENCE_DAY_MS = 1_767_225_600_000  # 1 January 2026: a cron expression must match a later date
MIN_WEBHOOK_KEY_BYTES = 16  # the SDK accepts an empty key, with which anyone could sign
MIN_DISTINCT_BYTES = 8  # a random key of 16 bytes has fewer in one of 10^9 cases
# The examples of Svix' documentation and of the Standard Webhooks specification: everybody can sign with them.
PUBLISHED_WEBHOOK_KEYS = frozenset(
    base64.b64decode(key)
    for key in ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plJ3nmyCDGBKInavdOK15jsl", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
)
EXAMPLE_API_KEY = re.compile(r"re_(x*|\W*|1234\d*|your\w*|xxx\w*|test|example\w*)", re.IGNORECASE)
PLACEHOLDER = re.compile(r"change.?me|choose.?one|placeholder|your.?(secret|token)|0123456789", re.IGNORECASE)
REDIS_URL_OPTIONS = {
    "db": r"\d+",
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": "(?i:true|false|yes|no|0|1)",
}


def _key_part(text: str) -> str:
    if not text or INVALID_KEY_CHARS.search(text):
        raise ValueError("must not be empty or hold spaces, '@' or any of * ? [ ] \\")
    return text


def _sender(text: str) -> str:
    """An address, alone or as `Name <address>`; empty means that none is given."""
    return str(parse_mailbox(text)) if text.strip() else ""


def _display_text(text: str) -> str:
    """A name in any language, for subjects and the sender."""
    if not is_harmless_line(text) or not text.strip():
        raise ValueError("must be one line without control characters")
    return text.strip()


def _is_http_url(text: str) -> bool:
    """Whether it is an http or https URL with a host, in plain ASCII."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and PRINTABLE.fullmatch(text) is not None
        )
    except ValueError:
        return False


def _web_url(text: str) -> str:
    if not _is_http_url(text):
        raise ValueError("must be a URL like https://example.com")
    if "@" in urlsplit(text).netloc:
        raise ValueError("must not contain a login, because the URL is shown to recipients")
    return text.rstrip("/")


def _link_pattern(text: str) -> str:
    """A path below the frontend's URL, or a URL; empty or `none` means that there is no such page."""
    text = text.strip()
    if not text or text == "none":  # an empty variable of the environment counts as not set
        return ""
    path = text if text.startswith("/") else text.partition("://")[2]
    if not path or not LINK_CHARS.fullmatch(text) or path.replace("{id}", "").count("{"):
        raise ValueError("must be a path such as /goals/{id}, or a URL")
    if not text.startswith("/"):
        _web_url(text.replace("{id}", "0"))
    return text


def _one_line(text: str) -> str:
    text = text.strip()
    if len(text) > MAX_LINE_LENGTH or not is_harmless_line(text):
        raise ValueError(f"must be one line of at most {MAX_LINE_LENGTH} characters, without control characters")
    return text


def _proxy_url(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if not _is_http_url(text):
        raise ValueError("must be the URL of an HTTP proxy, like http://proxy.example.com:3128")
    return SecretStr(text)


def _secret_url(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if not _is_http_url(text):
        raise ValueError("must be a URL like https://monitoring.example.com/ping/…")
    return SecretStr(text)


def _secret_word(secret: SecretStr) -> SecretStr:
    if not PRINTABLE.fullmatch(secret.get_secret_value()):
        raise ValueError("must be plain ASCII without spaces or line breaks")
    return secret


def _api_key(secret: SecretStr) -> SecretStr:
    if EXAMPLE_API_KEY.fullmatch(_secret_word(secret).get_secret_value()):
        raise ValueError("is an example, not a key: create one at Resend")
    return secret


def _redis_url(secret: SecretStr) -> SecretStr:
    """An address in one of Redis' usual forms; empty means that host and port say it."""
    text = secret.get_secret_value().strip()
    if not text:
        return SecretStr(text)
    for name, value in parse_qsl(text.partition("?")[2]):
        if name in REDIS_URL_OPTIONS and not re.fullmatch(REDIS_URL_OPTIONS[name], value):
            raise ValueError(f"has a parameter {name} that is not {REDIS_URL_OPTIONS[name]}")
    if text.startswith("unix://"):
        return SecretStr(text)
    try:
        parts = urlsplit(text)
        right = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or not re.fullmatch(r"/?\d*", parts.path) or not PRINTABLE.fullmatch(text):
        raise ValueError("must be like redis://user:password@host:6379/0, special characters of a password as %XX")
    return SecretStr(text)


def parse_host_ports(text: str) -> list[tuple[str, int]]:
    """Host and port of each sentinel in a list like `a:26379,[::1]:26379,c`. Raises ValueError."""
    places = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        parts = urlsplit(f"//{word}")
        plain = PRINTABLE.fullmatch(word) and parts.netloc == word and "@" not in word
        if not plain or not parts.hostname or parts.port == 0:
            raise ValueError
        places.append((parts.hostname, parts.port or SENTINEL_PORT))
    return places


def _sentinel_addresses(text: str) -> str:
    try:
        parse_host_ports(text)
    except ValueError:
        raise ValueError("must be like 10.0.0.1:26379,10.0.0.2:26379") from None
    return text


def split_secrets(secret: SecretStr | None) -> list[str]:
    """The secrets of a list that is separated by commas."""
    return [] if secret is None else [part.strip() for part in secret.get_secret_value().split(",") if part.strip()]


def _secret_list(secret: SecretStr) -> SecretStr:
    secrets = split_secrets(secret)
    if not secrets or not all(PRINTABLE.fullmatch(one) for one in secrets):
        raise ValueError("must be plain ASCII without spaces, or several such values separated by commas")
    return secret


def _strong_secrets(secret: SecretStr) -> SecretStr:
    if any(len(one) < MIN_SECRET_LENGTH for one in split_secrets(_secret_list(secret))):
        raise ValueError(f"must have {MIN_SECRET_LENGTH} characters or more; make one with: openssl rand -hex 32")
    if any(PLACEHOLDER.search(one) for one in split_secrets(secret)):
        raise ValueError("is a published placeholder; generate a secret with: openssl rand -hex 32")
    return secret


def is_webhook_secret(secret: str) -> bool:
    """Whether a secret has the provider's format, and a key that is neither published nor easy to guess."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (ValueError, binascii.Error):
        return False
    if key in PUBLISHED_WEBHOOK_KEYS or len(set(key)) < MIN_DISTINCT_BYTES:
        return False
    return len(key) >= MIN_WEBHOOK_KEY_BYTES


def _webhook_secrets(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        return secret  # an empty file in a folder of secrets: there is no webhook yet
    secrets = split_secrets(secret)
    if not secrets or not all(map(is_webhook_secret, secrets)):
        raise ValueError("must be like whsec_… and not an example: copy it from the webhook's page at Resend")
    return secret


def _postgres_url(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().startswith(("postgres://", "postgresql://")):
        raise ValueError("must start with postgresql://")
    return secret


def _cron(text: str) -> str:
    next_occurrence(parse_cron(text), parse_zone("UTC"), REFERENCE_DAY_MS)  # the 30th of February is never
    return text


def _zone(name: str) -> str:
    parse_zone(name)
    return name


def deadline_to_cron(text: str) -> str:
    """The cron expression behind `12:00` or `mon 12:00`. Raises ValueError."""
    match = DEADLINE_PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be a time like 12:00, or one with a day of the week, like mon 12:00")
    return f"{int(match['minute'])} {int(match['hour'])} * * {(match['day'] or '*').lower()}"


def _deadline(text: str) -> str:
    deadline_to_cron(text)
    return text


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


RedisKeyPart = Annotated[str, AfterValidator(_key_part), Field(max_length=100)]
HttpUrl = Annotated[str, AfterValidator(_web_url)]
DisplayText = Annotated[str, AfterValidator(_display_text)]
LinkPattern = Annotated[str, AfterValidator(_link_pattern)]
OneLine = Annotated[str, AfterValidator(_one_line)]
Mailbox = Annotated[str, AfterValidator(_sender)]
ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy_url)]
SecretUrl = Annotated[SecretStr, AfterValidator(_secret_url)]
ApiKey = Annotated[SecretStr, AfterValidator(_api_key)]
WebhookSecretList = Annotated[SecretStr, AfterValidator(_webhook_secrets)]
StrongSecretList = Annotated[SecretStr, AfterValidator(_strong_secrets)]
HostPortList = Annotated[str, AfterValidator(_sentinel_addresses)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
CronExpression = Annotated[str, AfterValidator(_cron)]
TimeZoneName = Annotated[str, AfterValidator(_zone)]
DeadlineTime = Annotated[str, AfterValidator(_deadline)]
CaseInsensitive = BeforeValidator(_lower)

"""Loads the configuration: values from all sources, or defaults, as typed sections.

Only the command line calls `load`, and no other module reads the environment. One ConfigError contains all errors. Each
names the source of the value, what is wrong and what is expected, and never contains the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from flowstate_daemon.base.docstrings import attribute_docstrings
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.config import settings
from flowstate_daemon.config.proxy import find_proxy
from flowstate_daemon.config.sources import (
    CREDENTIALS_VARIABLE,
    ENVIRONMENT,
    FALSE_VALUES,
    Key,
    RawValue,
    SettingsSources,
    env_name,
)

# Names that FlowState's deployments use today, and those of the provider.
ENV_ALIASES: Mapping[str, Key] = {
    "REDIS_URL": ("redis", "url"),
    "REDIS_HOST": ("redis", "host"),
    "REDIS_PORT": ("redis", "port"),
    "REDIS_USERNAME": ("redis", "username"),
    "REDIS_PASSWORD": ("redis", "password"),
    "REDIS_TLS": ("redis", "tls"),
    "DATABASE_URL": ("database", "url"),
    "RESEND_API_KEY": ("resend", "api_key"),
    "RESEND_API_URL": ("resend", "api_url"),
    "RESEND_FROM_EMAIL": ("mail", "from_address"),
    "FRONTEND_URL": ("mail", "frontend_url"),
    "APP_NAME": ("mail", "app_name"),
    "FLOWSTATE_MODE": ("queue", "mode"),
    "FLOWSTATE_DELIVERY": ("queue", "delivery"),
    "OTEL_EXPORTER_OTLP_HEADERS": ("tracing", "headers"),
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": ("tracing", "headers"),
}


MISSING_SENDER = "RESEND_FROM_EMAIL: missing; expected the sender, like FlowState <hello@example.com>"
MISSING_KEY = (
    "RESEND_API_KEY: missing; expected the API key of the provider, or FLOWSTATE_DELIVERY=outbox "
    "to write emails to files instead of sending them"
)
# The only values that are supported, of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
OTEL_VALUES = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
KEY_NAMES = ("RESEND_API_KEY", "RESEND_API_KEY_FILE")
MIN_SIMILARITY = 0.75  # RESEND_KEY is similar to RESEND_API_KEY, OPENAI_API_KEY is not


class Config(BaseModel):
    """All sections. `describe` says where each value came from.

    `is_dev` is no setting: only the command `dev` sets it, so that no setting hides warnings in production.
    """

    # The sections validate themselves, so that `load` needs no validator for all of them together (10 ms to build).
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    redis: settings.RedisSettings = Field(default_factory=settings.RedisSettings)
    queue: settings.QueueSettings = Field(default_factory=settings.QueueSettings)
    mail: settings.MailSettings = Field(default_factory=settings.MailSettings)
    links: settings.LinksSettings = Field(default_factory=settings.LinksSettings)
    resend: settings.ResendSettings = Field(default_factory=settings.ResendSettings)
    outbox: settings.OutboxSettings = Field(default_factory=settings.OutboxSettings)
    http: settings.HttpSettings = Field(default_factory=settings.HttpSettings)
    database: settings.DatabaseSettings = Field(default_factory=settings.DatabaseSettings)
    schedule: settings.ScheduleSettings = Field(default_factory=settings.ScheduleSettings)
    health: settings.HealthSettings = Field(default_factory=settings.HealthSettings)
    tracing: settings.TracingSettings = Field(default_factory=settings.TracingSettings)
    log: settings.LogSettings = Field(default_factory=settings.LogSettings)
    sources: Mapping[Key, str] = Field(default_factory=dict, exclude=True, repr=False)
    is_dev: bool = Field(default=False, exclude=True, repr=False)

    @property
    def delivery(self) -> Literal["resend", "outbox", "none"]:
        """Where emails go; none in shadow mode."""
        return "none" if self.queue.mode == "shadow" else self.queue.delivery

    def describe(self) -> list[tuple[str, str, str]]:
        """Every key as (`section.key`, the value as it may be shown, where it came from)."""
        return [
            (f"{name}.{key}", display_value(key, value), self.sources.get((name, key), "default"))
            for name in SECTIONS
            for key, value in getattr(self, name)
        ]


SECTIONS: Mapping[str, type[settings.SettingsSection]] = {
    name: cast("type[settings.SettingsSection]", field.annotation)
    for name, field in Config.model_fields.items()
    if name not in ("sources", "is_dev")
}
KEYS: tuple[Key, ...] = tuple((name, key) for name, part in SECTIONS.items() for key in part.model_fields)
ENV_NAMES: Mapping[str, Key] = {
    **ENV_ALIASES,
    **{env_name(key): key for key in KEYS},
}


def load(
    environ: Mapping[str, str],
    file: Path | None = None,
    *,
    sending: bool = False,
    credentials: Mapping[str, Path] = MappingProxyType({}),
    with_credentials: bool = True,
) -> Config:
    """Load all settings; `sending` also requires those that only `run` needs. Raises ConfigError with all errors.

    `credentials` are those of the systemd unit, by variable, for a command outside of it. Without `with_credentials`,
    systemd credentials are not read, and the API key, which may be one, is not required.
    """
    raw_settings = SettingsSources(ENV_NAMES)
    raw_settings.load(environ if with_credentials else _without_credentials(environ), file, credentials)
    _drop_overridden_redis_address(raw_settings)
    _give_colors(raw_settings, environ)
    _give_tracing(raw_settings, environ)
    if sending:
        _give_proxy(raw_settings, environ)
    sections = {name: _section(raw_settings, name) for name in SECTIONS}
    if sending:
        raw_settings.errors.extend(_missing(raw_settings, sections, environ, key_required=with_credentials))
    if raw_settings.errors:
        raise ConfigError(raw_settings.errors)
    sources = {key: given.source for key, given in raw_settings.given.items()}
    valid: dict[str, Any] = {**sections, "sources": sources}
    return Config.model_construct(**valid)


def _without_credentials(environ: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in environ.items() if name != CREDENTIALS_VARIABLE}


def _missing(
    raw_settings: SettingsSources,
    sections: Mapping[str, settings.SettingsSection | None],
    environ: Mapping[str, str],
    *,
    key_required: bool,
) -> Iterator[str]:
    """An error for each setting that `run` cannot do without. Pure."""
    mail, queue = sections["mail"], sections["queue"]
    if isinstance(mail, settings.MailSettings) and not mail.from_address:
        yield MISSING_SENDER
    sends = isinstance(queue, settings.QueueSettings) and queue.mode == "send" and queue.delivery == "resend"
    # A key that was given but cannot be read or is invalid has been reported already.
    reported = any(error.startswith(KEY_NAMES) or "resend_api_key" in error.lower() for error in raw_settings.errors)
    if key_required and sends and ("resend", "api_key") not in raw_settings.given and not reported:
        yield f"{MISSING_KEY}{_misspelt_key(environ)}"


def _misspelt_key(environ: Mapping[str, str]) -> str:
    """The variable that was probably meant to be the API key."""
    for name in sorted(environ.keys() - ENV_NAMES.keys()):
        if environ[name].strip() and (close := get_close_matches(name.upper(), KEY_NAMES, 1, MIN_SIMILARITY)):
            return f"; {name} is set; did you mean {close[0]}?"
    return ""


def _drop_overridden_redis_address(raw_settings: SettingsSources) -> None:
    """A Redis host from a source of higher precedence replaces the URL."""
    url, host = raw_settings.given.get(("redis", "url")), raw_settings.given.get(("redis", "host"))
    if url is not None and host is not None and host.precedence > url.precedence:
        del raw_settings.given["redis", "url"]


def _give_proxy(raw_settings: SettingsSources, environ: Mapping[str, str]) -> None:
    """Without a setting of our own, the proxy is the one that the environment names for the provider's address."""
    given = raw_settings.given.get(("resend", "api_url"))
    url = str(given.value) if given is not None else settings.ResendSettings.model_fields["api_url"].default
    try:
        found = find_proxy(url, environ)
    except ValueError:  # the address is invalid, which is reported as such
        return
    if found is not None and ("resend", "proxy_url") not in raw_settings.given:
        name, proxy = found
        raw_settings.given["resend", "proxy_url"] = RawValue(proxy, name, ENVIRONMENT)


def _give_colors(raw_settings: SettingsSources, environ: Mapping[str, str]) -> None:
    """Without a variable of our own, the conventions of terminals decide about colours (https://no-color.org)."""
    name = "NO_COLOR" if environ.get("NO_COLOR") else "TERM" if environ.get("TERM") == "dumb" else None
    given = raw_settings.given.get(("log", "colors"))
    if name is not None and (given is None or given.precedence < ENVIRONMENT):
        raw_settings.given["log", "colors"] = RawValue(False, name, ENVIRONMENT)


def _give_tracing(raw_settings: SettingsSources, environ: Mapping[str, str]) -> None:
    """The standard variables that switch traces off, or ask for what this daemon does not have."""
    for name, off in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        if environ.get(name, "").strip().lower() == off:
            raw_settings.given["tracing", "enabled"] = RawValue(False, name, ENVIRONMENT)
            return
    enabled = raw_settings.given.get(("tracing", "enabled"))
    if enabled is None or str(enabled.value).lower() in FALSE_VALUES:
        return
    for name, expected in OTEL_VALUES.items():
        if environ.get(name, "").strip() not in ("", expected):
            raw_settings.errors.append(
                f"{name}: not supported; expected {expected}, or FLOWSTATE_TRACING_ENABLED=false"
            )


def _section(raw_settings: SettingsSources, name: str) -> settings.SettingsSection | None:
    """The section, or None if it has errors."""
    values = {key: given.value for (part, key), given in raw_settings.given.items() if part == name}
    try:
        return SECTIONS[name].model_validate(values)
    except ValidationError as error:
        raw_settings.errors.extend(_validation_message(raw_settings, name, error))
        return None


def _validation_message(raw_settings: SettingsSources, name: str, error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        # Only Redis has a rule about a section as a whole, and it is about the address.
        key = (name, str(detail["loc"][0]) if detail["loc"] else "url")
        wrong = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        yield f"{raw_settings.describe_source(key)}: {wrong} ({attribute_docstrings(SECTIONS[name])[key[1]]})"


def describe_redis(config: Config) -> str:
    """Queue and server as a command names them, and where the address came from; without a login."""
    address = config.redis.sentinels or display_value("url", config.redis.url)
    names = ("sentinels", "url", "host")
    source = next((config.sources["redis", name] for name in names if ("redis", name) in config.sources), "default")
    return f"queue {config.queue.prefix}:{config.queue.name} on {address} ({source})"


def describe_database(config: Config) -> str:
    """The Postgres server as a command names it, and where the address came from; without a login."""
    address = display_value("url", config.database.url).partition("?")[0]
    return f"database {address} ({config.sources.get(('database', 'url'), 'default')})"


def display_value(key: str, value: Any) -> str:
    """A value as an operator may see it: a secret URL without login, another secret only as "set, hidden"."""
    if value is None or value == "":
        return "not set"
    if not isinstance(value, SecretStr):
        return str(value).lower() if isinstance(value, bool) else str(value)
    parts = urlsplit(value.get_secret_value())
    # An '@' behind the host means a password with an unquoted slash or the like: no part can be trusted.
    if key != "url" or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return "set, hidden"
    login, _, place = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{'***@' if login else ''}{place}{parts.path}"

"""Loads the configuration: values from all sources, or defaults, as typed sections.

Only the command line calls `load`, and no other module reads the environment. One ConfigError contains all errors. Each
names the source of the value, what is wrong and what is expected, and never contains the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.config import settings
from flowstate_daemon.config.proxy import find_proxy
from flowstate_daemon.config.sources import Key, RawValue, SettingsSources, env_name

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
}


ENVIRONMENT_PRECEDENCE = 4


class Config(BaseModel):
    """All sections. `describe` says where each value came from."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    redis: settings.RedisSettings = Field(default_factory=settings.RedisSettings)
    queue: settings.QueueSettings = Field(default_factory=settings.QueueSettings)
    mail: settings.MailSettings = Field(default_factory=settings.MailSettings)
    links: settings.LinksSettings = Field(default_factory=settings.LinksSettings)
    resend: settings.ResendSettings = Field(default_factory=settings.ResendSettings)
    outbox: settings.OutboxSettings = Field(default_factory=settings.OutboxSettings)
    http: settings.HttpSettings = Field(default_factory=settings.HttpSettings)
    database: settings.DatabaseSettings = Field(default_factory=settings.DatabaseSettings)
    schedule: settings.ScheduleSettings = Field(default_factory=settings.ScheduleSettings)
    log: settings.LogSettings = Field(default_factory=settings.LogSettings)
    sources: Mapping[Key, str] = Field(default_factory=dict, exclude=True, repr=False)

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
    if name != "sources"
}
KEYS: tuple[Key, ...] = tuple((name, key) for name, part in SECTIONS.items() for key in part.model_fields)
ENV_NAMES: Mapping[str, Key] = {
    **ENV_ALIASES,
    **{env_name(key): key for key in KEYS},
}


def load(environ: Mapping[str, str], file: Path | None = None, *, sending: bool = False) -> Config:
    """Load all settings; `sending` also requires those that only `run` needs. Raises ConfigError with all errors."""
    raw_settings = SettingsSources(ENV_NAMES)
    raw_settings.load(environ, file)
    _drop_overridden_redis_address(raw_settings)
    if sending:
        _give_proxy(raw_settings, environ)
    sections = {name: _section(raw_settings, name) for name in SECTIONS}
    mail = sections["mail"]
    if sending and isinstance(mail, settings.MailSettings) and not mail.from_address:
        raw_settings.errors.append(
            "RESEND_FROM_EMAIL: missing; expected the sender, like FlowState <hello@example.com>"
        )
    if raw_settings.errors:
        raise ConfigError(raw_settings.errors)
    sources = {key: given.source for key, given in raw_settings.given.items()}
    return Config.model_validate({**sections, "sources": sources})


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
        raw_settings.given["resend", "proxy_url"] = RawValue(proxy, name, ENVIRONMENT_PRECEDENCE)


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
        yield f"{raw_settings.describe_source(key)}: {wrong} ({SECTIONS[name].model_fields[key[1]].description})"


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

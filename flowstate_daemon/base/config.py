"""Reads the configuration once: defaults, TOML file, systemd credentials, `*_FILE`, environment; later wins.

The command line calls `load`; nobody else asks the environment. All mistakes go into one ConfigError: each
names where the value came from, what is wrong and what is expected, and never repeats the value.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from flowstate_daemon.base import settings
from flowstate_daemon.base.errors import ConfigError

Key = tuple[str, str]
PREFIX = "FLOWSTATE_"
MOST_TOLD = 20
NOT_SETTINGS = frozenset({"FLOWSTATE_CONFIG"})
# Names that FlowState's deployments use today, and those of the provider.
DEPLOYED: Mapping[str, Key] = {
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
}
# Container platforms announce services in variables of their own: a service `redis` sets REDIS_PORT=tcp://…
ANNOUNCED_NAME = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
ANNOUNCED_VALUE = re.compile(r"(tcp|udp|sctp)://")


class Config(BaseModel):
    """All sections. `describe` says where each value came from."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    redis: settings.Redis = Field(default_factory=settings.Redis)
    queue: settings.Queue = Field(default_factory=settings.Queue)
    mail: settings.Mail = Field(default_factory=settings.Mail)
    resend: settings.Resend = Field(default_factory=settings.Resend)
    outbox: settings.Outbox = Field(default_factory=settings.Outbox)
    http: settings.Http = Field(default_factory=settings.Http)
    database: settings.Database = Field(default_factory=settings.Database)
    log: settings.Log = Field(default_factory=settings.Log)
    sources: Mapping[Key, str] = Field(default_factory=dict, exclude=True, repr=False)

    def describe(self) -> list[tuple[str, str, str]]:
        """Every key as (`section.key`, the value as it may be shown, where it came from)."""
        return [
            (f"{name}.{key}", shown(key, value), self.sources.get((name, key), "default"))
            for name in SECTIONS
            for key, value in getattr(self, name)
        ]


SECTIONS: Mapping[str, type[settings.Section]] = {
    name: cast("type[settings.Section]", field.annotation)
    for name, field in Config.model_fields.items()
    if name != "sources"
}
KEYS: tuple[Key, ...] = tuple((name, key) for name, part in SECTIONS.items() for key in part.model_fields)
NAMES: Mapping[str, Key] = {
    **DEPLOYED,
    **{f"{PREFIX}{name}_{key}".upper(): (name, key) for name, key in KEYS},
}


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody gave it: where, and on which step of the order it stands."""

    value: Any
    source: str
    step: int


class Findings:
    """What was given and what was wrong, gathered step by step."""

    def __init__(self) -> None:
        self.given: dict[Key, Given] = {}
        self.mistakes: list[str] = []

    def give(self, step: int, source: str, key: Key, value: Any) -> None:
        self.given[key] = Given(value, source, step)

    def source(self, key: Key) -> str:
        """How to name a key in a mistake: as it was given, or as it could be."""
        return self.given[key].source if key in self.given else name_of(key)

    def read_toml(self, step: int, file: Path) -> None:
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            self.mistakes.append(f"{file}: cannot be read: {error}; expected a TOML file")
            return
        for name, table in tables.items():
            if name not in SECTIONS or not isinstance(table, dict):
                self.mistakes.append(f"{file}: [{name}] is no section{maybe(name, SECTIONS)}")
                continue
            for key, value in table.items():
                if (name, key) in KEYS:
                    self.give(step, f"[{name}] {key} in {file}", (name, key), value)
                else:
                    close = maybe(key, SECTIONS[name].model_fields)
                    self.mistakes.append(f"{file}: [{name}] has no key {key}{close}")

    def read_credentials(self, step: int, folder: Path) -> None:
        """Files that systemd lays out, named like the variables in either case."""
        for name, key in NAMES.items():
            for file in (folder / name.lower(), folder / name):
                if file.is_file():
                    self._read_secret(step, f"credential {file.name}", key, file)

    def read_files(self, step: int, environ: Mapping[str, str]) -> None:
        for name, key in NAMES.items():
            path = environ.get(f"{name}_FILE", "").strip()
            if path:
                self._read_secret(step, f"{name}_FILE", key, Path(path))

    def _read_secret(self, step: int, source: str, key: Key, file: Path) -> None:
        try:
            self.give(step, source, key, file.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it holds no text"
            self.mistakes.append(f"{source}: cannot read {file}: {reason}; expected a file with the value alone")

    def read_environment(self, step: int, environ: Mapping[str, str]) -> None:
        for name, key in NAMES.items():
            value = environ.get(name, "").strip()
            if value and not ANNOUNCED_VALUE.match(value):  # compose files pass on what is not set as empty
                self.give(step, name, key, value)
        for name in environ:
            if name.startswith(PREFIX) and not known(name, environ[name]):
                self.mistakes.append(f"{name}: no such setting{maybe(name, NAMES)}")

    def prefer_later_address(self) -> None:
        """A Redis host from a later step than the URL is meant to replace it."""
        url, host = self.given.get(("redis", "url")), self.given.get(("redis", "host"))
        if url is not None and host is not None and host.step > url.step:
            del self.given["redis", "url"]

    def section(self, name: str) -> settings.Section | None:
        """The section, or None and mistakes."""
        values = {key: given.value for (part, key), given in self.given.items() if part == name}
        try:
            return SECTIONS[name].model_validate(values)
        except ValidationError as error:
            self.mistakes.extend(self._told(name, error))
            return None

    def _told(self, name: str, error: ValidationError) -> Iterator[str]:
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            # Only Redis has a rule about a section as a whole, and it is about the address.
            key = (name, str(detail["loc"][0]) if detail["loc"] else "url")
            wrong = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
            yield f"{self.source(key)}: {wrong} ({SECTIONS[name].model_fields[key[1]].description})"


def load(environ: Mapping[str, str], file: Path | None = None, *, sending: bool = False) -> Config:
    """Read everything; `sending` also demands what only `run` needs. Raises ConfigError with all mistakes."""
    findings = Findings()
    if file is not None:
        findings.read_toml(1, file)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials:
        findings.read_credentials(2, Path(credentials))
    findings.read_files(3, environ)
    findings.read_environment(4, environ)
    findings.prefer_later_address()
    sections = {name: findings.section(name) for name in SECTIONS}
    mail = sections["mail"]
    if sending and isinstance(mail, settings.Mail) and not mail.from_address:
        findings.mistakes.append("RESEND_FROM_EMAIL: missing; expected the sender, like FlowState <hello@example.com>")
    if findings.mistakes:
        raise ConfigError(findings.mistakes)
    sources = {key: given.source for key, given in findings.given.items()}
    return Config.model_validate({**sections, "sources": sources})


def name_of(key: Key) -> str:
    """The variable of a key: the one that deployments use, else ours."""
    return next(name for name, named in NAMES.items() if named == key)


def known(name: str, value: str) -> bool:
    """Whether a FLOWSTATE_ variable is a setting, a file with one, or a platform's announcement."""
    if name in NAMES or name.removesuffix("_FILE") in NAMES or name in NOT_SETTINGS:
        return True
    return bool(ANNOUNCED_NAME.search(name)) or bool(ANNOUNCED_VALUE.match(value))


def maybe(word: str, words: Mapping[str, Any]) -> str:
    """A guess at what was meant, else what there is."""
    close = get_close_matches(word, words, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(words)}" if len(words) <= MOST_TOLD else ""


def shown(key: str, value: Any) -> str:
    """A value as an operator may see it: of a secret URL the place, of another secret that there is one."""
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

"""Reads the raw value of each setting: TOML file, systemd credentials, `*_FILE`, environment; later sources win.

`loader` builds the settings from it. The health command needs two settings and must start fast, so this module imports
the standard library only and does not know types and limits.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

Key = tuple[str, str]

PREFIX = "FLOWSTATE_"
DEFAULT_CONFIG_FILE = Path("/etc/flowstate-daemon/flowstate-daemon.toml")
MAX_LISTED_NAMES = 20
FALSE_VALUES = frozenset({"0", "off", "f", "false", "n", "no"})  # what pydantic takes for false
CREDENTIAL_SIMILARITY = 0.8  # resend_apikey is a misspelt resend_api_key, tls.crt is for another purpose
# The compose file always mounts these files; they are empty until there is a webhook, a collector or such a reader.
MAY_BE_EMPTY: frozenset[Key] = frozenset({("resend", "webhook_secret"), ("http", "read_token"), ("tracing", "headers")})
# Later sources win.
FILE, CREDENTIAL, VALUE_FILE, ENVIRONMENT = 1, 2, 3, 4
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"  # set by systemd: a folder with one file for each credential
IGNORED_ENV = frozenset({"FLOWSTATE_CONFIG"})
# Container platforms announce services in variables of their own: a service `redis` sets REDIS_PORT=tcp://…
SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


def config_path(config_file: str | None) -> Path | None:
    """The settings file: the given one, else the default one if it exists."""
    return Path(config_file) if config_file else DEFAULT_CONFIG_FILE if DEFAULT_CONFIG_FILE.exists() else None


def env_name(key: Key) -> str:
    """The variable of ours for a key; every key has one."""
    return f"{PREFIX}{key[0]}_{key[1]}".upper()


@dataclass(frozen=True, slots=True)
class RawValue:
    """A value with its source and the precedence of that source."""

    value: Any
    source: str
    precedence: int


class SettingsSources:
    """The raw values of the settings in `names`, and the errors found while reading them."""

    def __init__(self, names: Mapping[str, Key], *, whole: bool = True) -> None:
        """`names` maps variables to settings; messages use the first name of a setting.

        With `whole` these are all settings, so any other name is an error.
        """
        self.names = names
        self._whole = whole
        self.given: dict[Key, RawValue] = {}
        self.errors: list[str] = []

    def load(
        self, environ: Mapping[str, str], file: Path | None, credentials: Mapping[str, Path] = MappingProxyType({})
    ) -> None:
        """Read all sources, in ascending precedence. Never raises: what cannot be read is added to `errors`.

        `credentials` are files of the unit, by variable, for a process that has no credentials of its own.
        """
        if file is not None:
            self._read_toml(FILE, file)
        for name in self.names.keys() & credentials.keys():
            self._read_secret(CREDENTIAL, str(credentials[name]), self.names[name], credentials[name])
        folder = environ.get(CREDENTIALS_VARIABLE)
        if folder:
            self._read_credentials(CREDENTIAL, Path(folder), environ)
        self._read_files(VALUE_FILE, environ)
        self._read_environment(ENVIRONMENT, environ)

    def describe_source(self, key: Key) -> str:
        """The name of a key in messages: its source, or its variable if it was not set."""
        if key in self.given:
            return self.given[key].source
        return next(name for name, named in self.names.items() if named == key)

    def _give(self, precedence: int, source: str, key: Key, value: Any) -> None:
        self.given[key] = RawValue(value, source, precedence)

    def _read_toml(self, precedence: int, file: Path) -> None:
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.errors.append(f"{file}: cannot be read: {reason}; expected a TOML file")
            return
        sections = _sections(self.names.values())
        for name, table in tables.items():
            if name not in sections or not isinstance(table, dict):
                self._report_unknown(f"{file}: [{name}] is no section", name, sections)
                continue
            for key, value in table.items():
                if key in sections[name]:
                    self._give(precedence, f"[{name}] {key} in {file}", (name, key), value)
                else:
                    renamed = RENAMED_SETTINGS.get((name, key))
                    self._report_unknown(f"{file}: [{name}] has no key {key}", key, sections[name], renamed)

    def _read_credentials(self, precedence: int, folder: Path, environ: Mapping[str, str]) -> None:
        """Read systemd credentials, named like the variables in upper or lower case."""
        try:
            there = {file.name for file in folder.iterdir()}
        except OSError as error:
            # Fatal: without its secrets the daemon would run without ledger, webhooks or unsubscribe links.
            reason = f"cannot read {folder}: {error.strerror}"
            self.errors.append(f"{CREDENTIALS_VARIABLE}: {reason}; expected a folder with one file for each secret")
            return
        for name, key in self.names.items():
            for file in (folder / name.lower(), folder / name):
                if file.name in there:
                    self._read_secret(precedence, f"credential {file.name}", key, file)
        self._check_credential_names(there - self._used_names(folder, environ))

    def _used_names(self, folder: Path, environ: Mapping[str, str]) -> set[str]:
        """Names of files that are credentials, or that a setting or a variable names by path."""
        paths = [*environ.values(), *(str(given.value) for given in self.given.values())]
        used = {Path(path).name for path in paths if Path(path).parent == folder}
        return used | {spelling for name in self.names for spelling in (name, name.lower())}

    def _check_credential_names(self, unknown: Iterable[str]) -> None:
        """A name that resembles a setting's is a mistake; other names may have another purpose."""
        known = {name.lower() for name in self.names}
        for name in sorted(unknown):
            if close := get_close_matches(name.lower(), known, 1, CREDENTIAL_SIMILARITY):
                self._report_unknown(f"credential {name}: no such setting", name, (), close[0])

    def _read_files(self, precedence: int, environ: Mapping[str, str]) -> None:
        for name, key in self.names.items():
            path = environ.get(f"{name}_FILE", "").strip()
            if path:
                self._read_secret(precedence, f"{name}_FILE", key, Path(path))

    def _read_secret(self, precedence: int, source: str, key: Key, file: Path) -> None:
        try:
            value = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.errors.append(f"{source}: cannot read {file}: {reason}; expected a file with the value alone")
            return
        if not value.strip():
            # Not the same as unset: whoever provides a file means it to contain something.
            if key not in MAY_BE_EMPTY:
                self.errors.append(f"{source}: {file} is empty; expected a file with the value alone")
            return
        self._give(precedence, source, key, value)

    def _read_environment(self, precedence: int, environ: Mapping[str, str]) -> None:
        for name, key in self.names.items():
            value = environ.get(name, "").strip()
            if value and not SERVICE_LINK_VALUE.match(value):  # compose files pass on what is not set as empty
                self._give(precedence, name, key, value)
        for name in environ:
            if name.startswith(PREFIX) and not self._known(name, environ[name]):
                self._report_unknown(f"{name}: no such setting", name, self.names, RENAMED_VARIABLES.get(name))

    def _report_unknown(self, error: str, name: str, known: Collection[str], renamed: str | None = None) -> None:
        if self._whole:
            self.errors.append(f"{error}; did you mean {renamed}?" if renamed else f"{error}{suggestion(name, known)}")

    def _known(self, name: str, value: str) -> bool:
        """Whether a FLOWSTATE_ variable is a setting, a file with one, or set by a container platform."""
        if name in self.names or name.removesuffix("_FILE") in self.names or name in IGNORED_ENV:
            return True
        return bool(SERVICE_LINK_NAME.search(name)) or bool(SERVICE_LINK_VALUE.match(value))


def _sections(keys: Iterable[Key]) -> dict[str, dict[str, None]]:
    """The keys of each section, in their order."""
    sections: dict[str, dict[str, None]] = {}
    for name, key in keys:
        sections.setdefault(name, {})[key] = None
    return sections


def suggestion(name: str, known: Collection[str]) -> str:
    """The closest known name, else the list of known names."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}" if len(known) <= MAX_LISTED_NAMES else ""


# Former names, which are too different from today's to be found by similarity.
RENAMED_SETTINGS: Mapping[Key, str] = {
    ("queue", "urgent_reserve"): "urgent_concurrency",
    ("queue", "lock_ms"): "lock_duration_ms",
    ("queue", "max_stalled"): "max_stalled_count",
    ("queue", "attempts"): "default_attempts",
    ("queue", "backoff_ms"): "default_backoff_ms",
    ("queue", "jitter"): "backoff_jitter",
    ("queue", "drain_s"): "shutdown_timeout_s",
    ("redis", "block_s"): "block_timeout_s",
    ("redis", "master"): "sentinel_master",
    ("resend", "assumed_rate"): "initial_requests_per_second",
    ("database", "keep_days"): "retention_days",
    ("database", "journal_limit"): "journal_max_entries",
    ("schedule", "zone"): "default_timezone",
    ("schedule", "task_reminder_until"): "task_reminder_deadline",
    ("schedule", "overdue_summary_until"): "overdue_summary_deadline",
    ("schedule", "focus_report_until"): "focus_report_deadline",
    ("schedule", "ahead"): "max_queued",
}
RENAMED_VARIABLES: Mapping[str, str] = {
    env_name((section, old)): env_name((section, new)) for (section, old), new in RENAMED_SETTINGS.items()
}

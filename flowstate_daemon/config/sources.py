"""Gathers what was given for each setting: TOML file, systemd credentials, `*_FILE`, environment; later wins.

`config.py` makes the settings from it. The health command asks for two of them and must answer within a blink:
this module imports the standard library only, and knows nothing of types and limits.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

Key = tuple[str, str]

PREFIX = "FLOWSTATE_"
DEFAULT_CONFIG_FILE = Path("/etc/flowstate-daemon/flowstate-daemon.toml")
MAX_REPORTED_ERRORS = 20
IGNORED_ENV = frozenset({"FLOWSTATE_CONFIG"})
# Container platforms announce services in variables of their own: a service `redis` sets REDIS_PORT=tcp://…
SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


def config_path(config_file: str | None) -> Path | None:
    """The settings file of this call: the one that was named, else the standard one if it is there."""
    return Path(config_file) if config_file else DEFAULT_CONFIG_FILE if DEFAULT_CONFIG_FILE.exists() else None


def env_name(key: Key) -> str:
    """The variable of ours for a key; every key has one."""
    return f"{PREFIX}{key[0]}_{key[1]}".upper()


@dataclass(frozen=True, slots=True)
class RawValue:
    """A value as somebody gave it: where, and on which step of the order it stands."""

    value: Any
    source: str
    precedence: int


class SettingsSources:
    """What was given for the settings behind `names`, and what was wrong with it."""

    def __init__(self, names: Mapping[str, Key], *, whole: bool = True) -> None:
        """`names` are variables and their settings; a setting's first name is the one that is told.

        `whole` says that these are all there are, so that any other is a mistake.
        """
        self.names = names
        self._whole = whole
        self.given: dict[Key, RawValue] = {}
        self.errors: list[str] = []

    def load(self, environ: Mapping[str, str], file: Path | None) -> None:
        """Read everything, from weak to strong. Never raises: what cannot be read is a mistake."""
        if file is not None:
            self._read_toml(1, file)
        credentials = environ.get("CREDENTIALS_DIRECTORY")
        if credentials:
            self._read_credentials(2, Path(credentials))
        self._read_files(3, environ)
        self._read_environment(4, environ)

    def describe_source(self, key: Key) -> str:
        """How to name a key in a mistake: as it was given, or as it could be."""
        if key in self.given:
            return self.given[key].source
        return next(name for name, named in self.names.items() if named == key)

    def _give(self, step: int, source: str, key: Key, value: Any) -> None:
        self.given[key] = RawValue(value, source, step)

    def _read_toml(self, step: int, file: Path) -> None:
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            self.errors.append(f"{file}: cannot be read: {error}; expected a TOML file")
            return
        sections = _sections(self.names.values())
        for name, table in tables.items():
            if name not in sections or not isinstance(table, dict):
                self._wonder(f"{file}: [{name}] is no section", name, sections)
                continue
            for key, value in table.items():
                if key in sections[name]:
                    self._give(step, f"[{name}] {key} in {file}", (name, key), value)
                else:
                    self._wonder(f"{file}: [{name}] has no key {key}", key, sections[name])

    def _read_credentials(self, step: int, folder: Path) -> None:
        """Files that systemd lays out, named like the variables in either case."""
        try:
            there = {file.name for file in folder.iterdir()}
        except OSError as error:  # to go on without secrets would be to write mails to a folder instead of sending them
            reason = f"cannot read {folder}: {error.strerror}"
            self.errors.append(f"CREDENTIALS_DIRECTORY: {reason}; expected a folder with one file for each secret")
            return
        for name, key in self.names.items():
            for file in (folder / name.lower(), folder / name):
                if file.name in there:
                    self._read_secret(step, f"credential {file.name}", key, file)

    def _read_files(self, step: int, environ: Mapping[str, str]) -> None:
        for name, key in self.names.items():
            path = environ.get(f"{name}_FILE", "").strip()
            if path:
                self._read_secret(step, f"{name}_FILE", key, Path(path))

    def _read_secret(self, step: int, source: str, key: Key, file: Path) -> None:
        try:
            self._give(step, source, key, file.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it holds no text"
            self.errors.append(f"{source}: cannot read {file}: {reason}; expected a file with the value alone")

    def _read_environment(self, step: int, environ: Mapping[str, str]) -> None:
        for name, key in self.names.items():
            value = environ.get(name, "").strip()
            if value and not SERVICE_LINK_VALUE.match(value):  # compose files pass on what is not set as empty
                self._give(step, name, key, value)
        for name in environ:
            if name.startswith(PREFIX) and not self._known(name, environ[name]):
                self._wonder(f"{name}: no such setting", name, self.names)

    def _wonder(self, error: str, word: str, text: Collection[str]) -> None:
        if self._whole:
            self.errors.append(f"{error}{suggestion(word, text)}")

    def _known(self, name: str, value: str) -> bool:
        """Whether a FLOWSTATE_ variable is a setting, a file with one, or a platform's announcement."""
        if name in self.names or name.removesuffix("_FILE") in self.names or name in IGNORED_ENV:
            return True
        return bool(SERVICE_LINK_NAME.search(name)) or bool(SERVICE_LINK_VALUE.match(value))


def _sections(keys: Iterable[Key]) -> dict[str, dict[str, None]]:
    """The keys of each section, in their order."""
    sections: dict[str, dict[str, None]] = {}
    for name, key in keys:
        sections.setdefault(name, {})[key] = None
    return sections


def suggestion(word: str, text: Collection[str]) -> str:
    """A guess at what was meant, else what there is."""
    close = get_close_matches(word, text, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(text)}" if len(text) <= MAX_REPORTED_ERRORS else ""

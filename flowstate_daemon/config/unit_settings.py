"""The settings that the systemd unit gives to the daemon, for commands that run outside of it.

The unit reads variables, environment files and credentials; a shell has none of them. Without them a command would ask
another Redis than the daemon uses, and say nothing about it. A test compares the names here with the unit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowstate_daemon.config.sources import CREDENTIALS_VARIABLE, PREFIX, Key
from flowstate_daemon.config.unit_files import read_unit_files

UNIT = "flowstate-daemon"
ENVIRONMENT_FILE = Path("/etc/flowstate-daemon/environment")
CREDENTIAL_STORES = (Path("/etc/credstore"), Path("/etc/credstore.encrypted"))
FILE_SUFFIX = "_FILE"
REDIS_ADDRESS: tuple[Key, ...] = (("redis", "url"), ("redis", "host"), ("redis", "sentinels"))
# One assignment, with the quotes and escapes of systemd.exec(5). A line that ends with a backslash continues.
ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=[ \t]*(.*)", re.ASCII | re.DOTALL)
PART = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^'"\\]+)""", re.DOTALL)
LINE_END = re.compile(r"[\r\n]+")  # for systemd, no other character ends a line
ESCAPED = re.compile(r"\\([\"\\$`])")


@dataclass(frozen=True, slots=True)
class UnitSettings:
    """Variables, and credential files by variable, of the unit; what could not be read, and what is encrypted.

    `origins` has the file of each variable.
    """

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    origins: Mapping[str, Path] = field(default_factory=dict)
    credentials: Mapping[str, Path] = field(default_factory=dict)
    unreadable: tuple[Path, ...] = ()
    encrypted: Mapping[str, Path] = field(default_factory=dict)

    def without(self, environ: Mapping[str, str], names: Mapping[str, Key]) -> UnitSettings:
        """The settings that the caller's environment does not give itself, under any of their names.

        A caller that names a Redis gets nothing of the unit's, or its password would be sent to another server.
        """
        given = {_key(name, names) for name, value in environ.items() if value.strip()} - {None}
        if given.intersection(REDIS_ADDRESS):
            given.update(key for key in names.values() if key[0] == REDIS_ADDRESS[0][0])
        variables = {name: value for name, value in self.variables.items() if _key(name, names) not in given}
        credentials = {name: file for name, file in self.credentials.items() if names.get(name) not in given}
        return replace(self, variables=variables, credentials=credentials)


def is_unit_process(environ: Mapping[str, str]) -> bool:
    """Whether systemd started this process itself, or gave it credentials: it has the settings of its unit."""
    return environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()) or bool(environ.get(CREDENTIALS_VARIABLE))


def read_unit_settings(
    names: Iterable[str],
    environment_file: Path | None = None,
    stores: tuple[Path, Path] | None = None,
    folders: tuple[Path, ...] | None = None,
) -> UnitSettings:
    """What the unit reads at its start. `names` are the variables of all settings, `folders` those of unit files.

    Without the environment file, which the installation creates, the service is not installed here.
    """
    environment_file, (plain, encrypted) = environment_file or ENVIRONMENT_FILE, stores or CREDENTIAL_STORES
    try:
        environment_file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return UnitSettings()
    except OSError:
        pass  # it is there, and reading it will say so
    unit = read_unit_files(UNIT, folders)
    unreadable = unit.unreadable
    variables, origins = dict(unit.variables), {name: unit.origins[name] for name in unit.variables}
    for file in dict.fromkeys([environment_file, *unit.environment_files]):  # files override `Environment=`
        try:
            read = parse_environment_file(file.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            continue
        except OSError:
            unreadable.append(file)
            continue
        variables |= read
        origins |= dict.fromkeys(read, file)
    known = list(names)
    found = {store: _credentials(store, known, unreadable) for store in (plain, encrypted)}
    own = {name.upper(): file for name, file in unit.credentials.items() if name.upper() in known}
    hidden = {name.upper(): file for name, file in unit.encrypted.items() if name.upper() in known}
    return UnitSettings(variables, origins, found[plain] | own, tuple(unreadable), found[encrypted] | hidden)


def _credentials(store: Path, names: Iterable[str], unreadable: list[Path]) -> dict[str, Path]:
    """The unit's files in a store, by variable. Their names are the variables in lower case, without our prefix."""
    try:
        there = {file.name for file in store.iterdir()}
    except FileNotFoundError:
        return {}
    except OSError:
        unreadable.append(store)
        return {}
    files = {name: f"{UNIT}.{name.removeprefix(PREFIX).lower()}" for name in names}
    return {name: store / file for name, file in files.items() if file in there}


def parse_environment_file(text: str) -> dict[str, str]:
    """The assignments of a file for `EnvironmentFile=`; other lines are ignored, as systemd does."""
    variables = {}
    lines = LINE_END.split(text.replace("\\\n", "\0"))
    for line in lines:
        match = ASSIGNMENT.fullmatch(line.replace("\0", ""))
        if match is not None and not line.lstrip().startswith(("#", ";")):
            variables[match[1]] = _unquote(match[2].rstrip())
    return variables


def _unquote(value: str) -> str:
    """Single quotes keep everything, double quotes know escapes; outside of both a backslash keeps one character."""
    parts = []
    for single, double, escaped, plain in PART.findall(value):
        parts.append(single + ESCAPED.sub(r"\1", double) + escaped + plain)
    return "".join(parts)


def _key(name: str, names: Mapping[str, Key]) -> Key | None:
    return names.get(name) or names.get(name.removesuffix(FILE_SUFFIX))

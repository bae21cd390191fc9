"""What the files of the systemd unit say about its environment: the unit file and its drop-ins, as systemd reads them.

Source: systemd.unit(5), systemd.exec(5) and systemd.syntax(7). Only absolute paths and a few specifiers are understood.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

UNIT_FOLDERS = tuple(
    map(
        Path,
        (
            "/etc/systemd/system",
            "/run/systemd/system",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ),
    )
)
CREDENTIALS = ("LoadCredential", "LoadCredentialEncrypted")
# One item of a list: parts in quotes, escaped characters, and everything else up to the next blank.
ITEM = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\])+""", re.DOTALL)
PART = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^'"\\]+)""", re.DOTALL)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "s": " "}
SPECIFIER = re.compile(r"%(.)")


@dataclass(slots=True)
class UnitFiles:
    """Variables with the file that sets each, further environment files, and credential files by id."""

    variables: dict[str, str] = field(default_factory=dict, repr=False)
    origins: dict[str, Path] = field(default_factory=dict)
    environment_files: list[Path] = field(default_factory=list)
    credentials: dict[str, Path] = field(default_factory=dict)
    encrypted: dict[str, Path] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)


def read_unit_files(unit: str, folders: tuple[Path, ...] | None = None) -> UnitFiles:
    """The unit file of the first folder that has one, then all drop-ins by name. Never raises."""
    folders = UNIT_FOLDERS if folders is None else folders
    found, specifiers = UnitFiles(), specifiers_of(unit)
    for file in _files(unit, folders):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        except OSError:
            found.unreadable.append(file)
            continue
        for key, value in parse_service(text):
            _apply(found, file, key, SPECIFIER.sub(lambda match: specifiers.get(match[1], match[0]), value))
    return found


def _files(unit: str, folders: tuple[Path, ...]) -> Iterator[Path]:
    name = f"{unit}.service"
    main = next((folder / name for folder in folders if (folder / name).exists()), None)
    if main is not None:
        yield main
    drop_ins: dict[str, Path] = {}
    # `flowstate-.service.d` is for all units with this beginning, `service.d` for all services.
    beginnings = [f"{unit[: end + 1]}.service.d" for end, char in enumerate(unit) if char == "-"]
    for subfolder in (f"{name}.d", *reversed(beginnings), "service.d"):
        for folder in folders:
            try:
                there = sorted((folder / subfolder).glob("*.conf"))
            except OSError:
                continue
            for file in there:
                drop_ins.setdefault(file.name, file)
    yield from (drop_ins[file] for file in sorted(drop_ins))


def specifiers_of(unit: str) -> Mapping[str, str]:
    return {"%": "%", "H": socket.gethostname(), "n": f"{unit}.service", "N": unit, "p": unit}


def parse_service(text: str) -> Iterator[tuple[str, str]]:
    """The assignments of the section `[Service]`, in their order. Pure."""
    section = ""
    for line in re.sub(r"\\\n(?:\s*[#;][^\n]*\n)*", " ", text).splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped
        elif section == "[Service]" and "=" in stripped and not stripped.startswith(("#", ";")):
            key, _, value = stripped.partition("=")
            yield key.rstrip(), value.lstrip()


def _apply(found: UnitFiles, file: Path, key: str, value: str) -> None:
    """One assignment; an empty one resets what came before."""
    if key == "Environment":
        if not value:
            found.variables.clear()
        for item in split_items(value):
            name, is_assigned, text = item.partition("=")
            if is_assigned:
                found.variables[name], found.origins[name] = text, file
    elif key == "EnvironmentFile":
        if not value:
            found.environment_files.clear()
        elif value.lstrip("-").startswith("/"):
            found.environment_files.append(Path(value.lstrip("-")))
    elif key in CREDENTIALS:
        name, _, path = value.partition(":")
        if path.startswith("/"):
            (found.credentials if key == CREDENTIALS[0] else found.encrypted)[name] = Path(path)


def split_items(value: str) -> list[str]:
    """The items of a list, without their quotes and escapes. Pure.

    >>> split_items('A=b "C=d e"')
    ['A=b', 'C=d e']
    """
    return ["".join(_unquote(*part) for part in PART.findall(item)) for item in ITEM.findall(value)]


def _unquote(single: str, double: str, escaped: str, plain: str) -> str:
    if escaped:
        return ESCAPES.get(escaped, escaped)
    return plain or ESCAPED.sub(lambda match: ESCAPES.get(match[1], match[1]), single or double)

"""Reads the files of all kinds of email: the built-in ones, and those of another folder over them.

A problem in a file is one line of text, `path:line: what is wrong`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

COMMON = "common"  # the folder of what all kinds share
BUILT_IN_FOLDER = Path(__file__).with_name("kinds")
MAX_FILE_BYTES = 256 * 1024
MAX_NAME_LENGTH = 64
KIND_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
LANGUAGE = r"[a-z]{2,3}"
KIND_FILE = re.compile(rf"kind\.toml|body\.(?:mjml|txt)|samples(?:\.{LANGUAGE})?\.toml|texts/{LANGUAGE}\.toml")
COMMON_FILE = re.compile(rf"[a-z-]+\.(?:mjml|txt|css)|texts/{LANGUAGE}\.toml")
TEXT_FILE = re.compile(rf"texts/({LANGUAGE})\.toml")
TOML_LINE = re.compile(r" \(at line (\d+), column \d+\)| \(at end of document\)")
TABLE_HEADER = re.compile(r"\s*\[+([^\[\]]+)\]+\s*(?:#.*)?")
TABLE_KEY = re.compile(r"""\s*("[^"]*"|'[^']*'|[\w-]+)\s*=""")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One text file."""

    path: Path
    text: str

    def problem(self, message: str, line: int | None = None) -> str:
        return f"{self.path}{'' if line is None else f':{line}'}: {message}"

    def problem_at(self, keys: Sequence[str | int], message: str) -> str:
        """A problem at a key of a TOML file."""
        return self.problem(f"{'.'.join(map(str, keys))}: {message}", self.line_of(keys))

    def line_of(self, keys: Sequence[str | int]) -> int | None:
        """The line of a key of a TOML file, or of the part of its path that has a line of its own."""
        wanted = [str(key) for key in keys]
        table: list[str] = []
        found, best = None, 0
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := TABLE_HEADER.fullmatch(line):
                table = path = [part.strip().strip("\"'") for part in header[1].split(".")]
            elif key := TABLE_KEY.match(line):
                path = [*table, key[1].strip("\"'")]
            else:
                continue
            if len(path) > best and path == wanted[: len(path)]:
                found, best = number, len(path)
        return found

    def find_word(self, word: str) -> int | None:
        """The first line that contains a word."""
        pattern = re.compile(rf"\b{re.escape(word)}\b")
        return next((n for n, line in enumerate(self.text.splitlines(), 1) if pattern.search(line)), None)

    def parse_toml(self, problems: list[str]) -> dict[str, Any] | None:
        """The content; None after a syntax error."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            place = TOML_LINE.search(str(error))
            line = int(place[1]) if place is not None and place[1] else len(self.text.splitlines())
            problems.append(self.problem(TOML_LINE.sub("", str(error)), line))
            return None


@dataclass(frozen=True, slots=True)
class KindFiles:
    """All files by relative path, such as `otp/body.mjml`; `changed` are the kinds with files of the other folder."""

    files: Mapping[str, SourceFile]
    changed: frozenset[str] = frozenset()

    def get(self, folder: str, name: str) -> SourceFile | None:
        return self.files.get(f"{folder}/{name}")

    @property
    def kinds(self) -> list[str]:
        """The names of all kinds, the built-in ones first."""
        names = dict.fromkeys(path.partition("/")[0] for path in self.files)
        return [name for name in names if name != COMMON]

    def languages(self, folder: str) -> list[str]:
        """The languages in which there are texts, English first."""
        found = (TEXT_FILE.fullmatch(path.removeprefix(f"{folder}/")) for path in self.files)
        return sorted({match[1] for match in found if match is not None}, key=lambda name: (name != "en", name))


def read_kind_files(folder: Path | None, problems: list[str]) -> KindFiles:
    """The built-in files; with `folder`, its files replace or complete them."""
    built_in = read_built_in_files()
    if folder is None:
        return KindFiles(built_in)
    if not folder.is_dir():
        problems.append(f"{folder}: is not a folder (mail.kinds_dir)")
        return KindFiles(built_in)
    own = dict(_read_folder(folder, problems))
    names = frozenset(path.partition("/")[0] for path in own)
    return KindFiles({**built_in, **own}, names)


@cache
def read_built_in_files() -> Mapping[str, SourceFile]:
    problems: list[str] = []
    files = dict(_read_folder(BUILT_IN_FOLDER, problems))
    if problems:
        raise ValueError("; ".join(problems))
    return files


def fingerprint(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Changes when a file in the folder changes."""
    found = set()
    for path in _walk(folder):
        try:
            status = path.stat()
        except OSError:  # deleted since it was listed
            continue
        found.add((str(path), status.st_mtime_ns, status.st_size))
    return frozenset(found)


def _walk(folder: Path) -> Iterator[Path]:
    """The files of the folder in order; hidden files and folders, and Python's own, are left out."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith((".", "__")) or part.endswith("~") for part in parts):
            yield path


def _read_folder(folder: Path, problems: list[str]) -> Iterator[tuple[str, SourceFile]]:
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        reason = _refusal(name) or _too_large(path)
        try:
            if reason is None:
                yield name, SourceFile(path, path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            reason = "is not UTF-8"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        if reason is not None:
            problems.append(f"{path}: {reason}")


def _refusal(name: str) -> str | None:
    """Why a file with this relative path does not belong here: a misspelt file would be ignored silently."""
    folder, _, rest = name.partition("/")
    if not rest:
        return "expected folders, one for each kind"
    if folder == COMMON:
        return None if COMMON_FILE.fullmatch(rest) else "expected layout.mjml, parts.mjml, … or texts/<language>.toml"
    if not KIND_NAME.fullmatch(folder) or len(folder) > MAX_NAME_LENGTH:
        return f"the name of a kind has lower-case letters, digits and dashes, at most {MAX_NAME_LENGTH}"
    if not KIND_FILE.fullmatch(rest):
        return "expected kind.toml, body.mjml, body.txt, samples.toml or texts/<language>.toml"
    return None


def _too_large(path: Path) -> str | None:
    try:
        size = path.stat().st_size
    except OSError:
        return None
    return f"is larger than {MAX_FILE_BYTES} bytes" if size > MAX_FILE_BYTES else None

"""Loads and checks the SQL files of this package; `sql` returns a query by name.

Each query has a line `-- name: x`, a description, and one line for each numbered parameter. Undocumented and unused
parameters are errors, so that a query can be read without its caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

HEADER = re.compile(r"^-- name: (.*)$", re.MULTILINE)
NAME = re.compile(r"[a-z][a-z_]*")
PARAMETER_DOC = re.compile(r"^-- \$(\d+) \S.* \([a-z\[\]]+\)$")
PARAMETER = re.compile(r"\$(\d+)")


class QueryFileError(ValueError):
    """A SQL file breaks the rules above: a bug."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query: its name, description, number of parameters, and SQL text."""

    name: str
    description: str
    parameters: int
    text: str


def sql(name: str) -> str:
    """The SQL text of a query. Raises KeyError for an unknown name, which is a bug."""
    return load_queries()[name].text


@cache
def load_queries() -> Mapping[str, Query]:
    """All queries in `sql/`, by name. Raises QueryFileError; called at start, so that errors show at once."""
    found: dict[str, Query] = {}
    for file in sorted((files(__package__) / "sql").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            for query in parse(file.read_text(encoding="utf-8"), file.name):
                if query.name in found:
                    raise QueryFileError(f"{file.name}: there are two queries named {query.name}")
                found[query.name] = query
    return found


def parse(text: str, file: str) -> Iterator[Query]:
    """Parse the queries of one file. Raises QueryFileError."""
    opening, *parts = HEADER.split(text)
    if any(line and not line.startswith("--") for line in opening.splitlines()):
        raise QueryFileError(f"{file}: there is SQL before the first name")
    for name, part in zip(parts[::2], parts[1::2], strict=True):
        yield _query(name, part.strip().splitlines(), f"{file}: {name}")


def _query(name: str, lines: list[str], location: str) -> Query:
    if not NAME.fullmatch(name):
        raise QueryFileError(f"{location}: a name consists of small letters and _")
    head = [line for line in lines[: _head_length(lines)] if line]
    text = [line for line in head if not line.startswith("-- $")]
    body = "\n".join(lines[_head_length(lines) :]).strip()
    if not text or not body:
        raise QueryFileError(f"{location}: there is no {'SQL' if text else 'description'}")
    explained = [int(match[1]) for line in head if (match := PARAMETER_DOC.match(line))]
    used = {int(number) for number in PARAMETER.findall(body)}
    if explained != list(range(1, len(explained) + 1)) or used != set(explained):
        raise QueryFileError(
            f"{location}: uses parameters {sorted(used)}, explains {explained} as `-- $1 meaning (type)`"
        )
    return Query(name, " ".join(line.removeprefix("--").strip() for line in text), len(used), body)


def _head_length(lines: list[str]) -> int:
    return next((number for number, line in enumerate(lines) if line and not line.startswith("--")), len(lines))

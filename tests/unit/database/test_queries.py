"""SQL files: each query is named, documented and used; migrations stay in our schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flowstate_daemon.database
from flowstate_daemon.database.migrations import (
    FILE,
    Migration,
    SchemaMismatchError,
    known_migrations,
    pending_migrations,
)
from flowstate_daemon.database.queries import QueryFileError, load_queries, parse

PACKAGE = Path(flowstate_daemon.database.__file__).parent
GOOD = (
    "-- A file.\n\n-- name: find_it\n-- Finds it.\n-- $1 what (text)\n-- $2 how many (integer)\nSELECT $1\nLIMIT $2;\n"
)


def test_query_has_name_description_and_text() -> None:
    """Header and text are separated, and the text is what the server gets."""
    (query,) = parse(GOOD, "x.sql")
    assert (query.name, query.description, query.parameters) == ("find_it", "Finds it.", 2)
    assert query.text == "SELECT $1\nLIMIT $2;"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("find_it", "Find it", "small letters"),
        ("-- Finds it.\n", "", "no description"),
        ("SELECT $1\nLIMIT $2;", "", "no SQL"),
        ("-- $2 how many (integer)\n", "", r"uses parameters \[1, 2\], explains \[1\]"),
        ("$2 how many (integer)", "$3 how many (integer)", r"explains \[1, 3\]"),
        ("LIMIT $2", "LIMIT 2", r"uses parameters \[1\]"),
        ("$1 what (text)", "$1 what", "meaning"),
        ("-- A file.", "SELECT 1;", "before the first name"),
    ],
)
def test_undocumented_query_is_refused(old: str, new: str, reason: str) -> None:
    """Each violation of the rules is reported with the file and the query."""
    with pytest.raises(QueryFileError, match=reason):
        list(parse(GOOD.replace(old, new, 1), "x.sql"))


def test_queries_in_python_and_sql_are_the_same() -> None:
    """Names in Python and in SQL are the same set."""
    code = "\n".join(path.read_text() for path in PACKAGE.glob("*.py"))
    used = {name for name in load_queries() if f'"{name}"' in code}
    asked = set(re.findall(r'\bsql\("(\w+)"\)', code))
    assert used == set(load_queries())
    assert asked <= set(load_queries())


@pytest.mark.parametrize(
    "path", sorted([*PACKAGE.glob("sql/*.sql"), *PACKAGE.glob("migrations/*.sql")]), ids=lambda p: p.name
)
def test_sql_writes_to_our_schema_only(path: Path) -> None:
    """Every relation that is created, changed or written is named with our schema; the search path is not changed."""
    text = re.sub(r"--.*", "", path.read_text())
    makes = r"CREATE TABLE|CREATE VIEW|INDEX \w+ ON|ALTER \w+|DROP (?!CONSTRAINT)\w+"
    writes = r"INSERT INTO|(?<!FOR )(?<!DO )UPDATE|DELETE FROM|TRUNCATE"
    written = re.findall(rf"\b(?:{makes}|{writes})\s+([\w.]+)", text)
    assert [name for name in written if not name.startswith("flowstate_daemon.")] == []
    assert not re.search(r"\bpublic\b|search_path|SET ROLE", text)


@pytest.mark.parametrize("path", sorted((PACKAGE / "migrations").iterdir()), ids=lambda path: path.name)
def test_migrations_name_compatible_versions(path: Path) -> None:
    """Each file is named NNNN_name.sql and its header names the older versions that may keep running."""
    assert FILE.fullmatch(path.name)
    head = re.match(r"(?:--.*\n)+", path.read_text())
    assert head is not None
    assert "Compatible with " in head[0]


def applied(*migrations: Migration) -> list[dict[str, object]]:
    return [{"version": one.version, "name": one.name, "checksum": one.checksum} for one in migrations]


def test_pending_migrations_follow_from_the_applied_ones() -> None:
    """None, some or all applied; a newer database and a changed migration are refused."""
    known = [Migration(number, f"m_{number}", f"SELECT {number}") for number in (1, 2, 3)]
    assert pending_migrations(known, []) == known
    assert pending_migrations(known, applied(*known[:2])) == known[2:]
    assert pending_migrations(known, applied(*known)) == []
    with pytest.raises(SchemaMismatchError, match="older than the database"):
        pending_migrations(known[:2], applied(*known))
    with pytest.raises(SchemaMismatchError, match="0002_m_2 was applied with another content"):
        pending_migrations(known, applied(known[0], Migration(2, "m_2", "SELECT 22")))


def test_migrations_are_numbered_without_a_gap() -> None:
    """1, 2, 3 and so on, each with a title that sorts."""
    assert [one.title[:4] for one in known_migrations()] == [f"{n + 1:04}" for n in range(len(known_migrations()))]

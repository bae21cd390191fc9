"""The checks of Postgres, as pure functions of what the server reports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowstate_daemon.cli.check.postgres import evaluate_app_tables, evaluate_schema, evaluate_server
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.database.server_info import (
    COLUMNS_BY_TABLE,
    TABLES_BY_SCHEDULE,
    PostgresInfo,
    SchemaRights,
    evaluate_access,
)

OWNED = SchemaRights(exists=True, can_create=False, may_use=True, may_create=True)
HEALTHY = PostgresInfo("16.4", 160_004, "daemon", "flowstate", False, False, 0.4, 0.0, OWNED)


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, Level.OK),
        ({"read_only": True}, Level.FAIL),
        ({"number": 120_019}, Level.WARN),
        ({"latency_ms": 80.0}, Level.WARN),
        ({"pooled": True}, Level.OK),
    ],
)
def test_level_of_the_server(change: dict[str, object], level: Level) -> None:
    """A replica fails, an old version and a high latency warn; a pooler is ok and named."""
    result = evaluate_server(replace(HEALTHY, **change))  # type: ignore[arg-type]
    assert result.level is level
    assert ("pooler" in result.message) is ("pooled" in change)


@pytest.mark.parametrize(
    ("rights", "remedy"),
    [
        (OWNED, ""),
        (SchemaRights(exists=False, can_create=True), ""),
        (SchemaRights(exists=False, can_create=False), 'CREATE SCHEMA flowstate_daemon AUTHORIZATION "daemon"'),
        (SchemaRights(exists=True, can_create=True), 'ALTER SCHEMA flowstate_daemon OWNER TO "daemon"'),
        (
            replace(OWNED, inaccessible_tables=("mails",)),
            'GRANT ALL ON ALL TABLES IN SCHEMA flowstate_daemon TO "daemon"',
        ),
    ],
)
def test_missing_schema_permission_has_a_sql_remedy(rights: SchemaRights, remedy: str) -> None:
    """The remedy is the statement that an administrator has to run."""
    result = evaluate_schema(rights, "daemon")
    assert result.level is (Level.FAIL if remedy else Level.OK)
    assert remedy in result.remedy


def rows(**changes: object) -> list[dict[str, object]]:
    """A catalogue row of a table with full access, with these changes."""
    granted = {"has_schema": True, "may_use_schema": True, "has_table": True, "has_column": True, "may_read": True}
    column = {"table_name": "focus_sessions", "column_name": "startTime", "role": "mail"}
    return [{**granted, **column, **changes}]


def test_complete_access_is_one_line() -> None:
    """The line says that the tables were checked."""
    (result,) = evaluate_app_tables("public", evaluate_access("public", rows()))
    assert (result.level, result.message) == (
        Level.OK,
        "the tables in schema public are readable",
    )


def test_unreadable_table_names_the_grant_and_the_blocked_kinds() -> None:
    """The remedy can be pasted into psql; kinds that do not need the table are not named."""
    (result,) = evaluate_app_tables("public", evaluate_access("public", rows(may_read=False)))
    assert result.level is Level.FAIL
    assert result.message == '"mail" may not read the table public.focus_sessions: no focus-report'
    assert result.remedy == 'GRANT SELECT ON "public"."focus_sessions" TO "mail"'


def test_missing_schema_usage_blocks_all_kinds() -> None:
    """Without USAGE no table of the schema is readable."""
    results = evaluate_app_tables("public", evaluate_access("public", rows(may_use_schema=False, may_read=False)))
    assert results[0].remedy == 'GRANT USAGE ON SCHEMA "public" TO "mail"'
    assert all(kind in results[0].message for kind in TABLES_BY_SCHEDULE)


def test_every_kind_names_tables_that_are_checked() -> None:
    """Otherwise a kind could be blocked without a result that says so."""
    assert {table for tables in TABLES_BY_SCHEDULE.values() for table in tables} == set(COLUMNS_BY_TABLE)

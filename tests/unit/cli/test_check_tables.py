"""What `check` says of the application's tables."""

from __future__ import annotations

from flowstate_daemon.cli.check.postgres import evaluate_app_tables
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.database.server_info import COLUMNS_BY_TABLE, TABLES_BY_SCHEDULE, evaluate_access


def rows(**changes: object) -> list[dict[str, object]]:
    """The catalogue's word on a table that is as it should be, but for the changes."""
    good = {"has_schema": True, "may_use_schema": True, "has_table": True, "has_column": True, "may_read": True}
    place = {"table_name": "focus_sessions", "column_name": "startTime", "role": "mail"}
    return [{**good, **place, **changes}]


def test_nothing_lacking_is_one_line() -> None:
    """An operator reads that it was looked at."""
    (result,) = evaluate_app_tables("public", evaluate_access("public", rows()))
    assert (result.grade, result.message) == (
        Level.OK,
        "all that the calendar needs in the schema public may be read",
    )


def test_a_closed_table_names_its_grant_and_the_mails_it_stops() -> None:
    """The remedy can be pasted into psql; what does not need the table is not accused."""
    (result,) = evaluate_app_tables("public", evaluate_access("public", rows(may_read=False)))
    assert result.grade is Level.FAIL
    assert result.message == '"mail" may not read the table public.focus_sessions: no focus-report'
    assert result.remedy == 'GRANT SELECT ON "public"."focus_sessions" TO "mail"'


def test_a_closed_schema_stops_all() -> None:
    """Without USAGE nothing can be read."""
    found = evaluate_app_tables("public", evaluate_access("public", rows(may_use_schema=False, may_read=False)))
    assert found[0].remedy == 'GRANT USAGE ON SCHEMA "public" TO "mail"'
    assert all(kind in found[0].message for kind in TABLES_BY_SCHEDULE)


def test_each_kind_names_tables_that_are_read() -> None:
    """A kind that needs a table which nobody looks at would never be called stopped."""
    assert {table for tables in TABLES_BY_SCHEDULE.values() for table in tables} == set(COLUMNS_BY_TABLE)

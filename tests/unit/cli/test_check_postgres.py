"""What `check` makes of what a Postgres says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowstate_daemon.cli.check.postgres import evaluate_schema, evaluate_server
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.database.server_info import PostgresInfo, SchemaRights

OWNED = SchemaRights(exists=True, can_create=False, may_use=True, may_create=True)
FINE = PostgresInfo("16.4", 160_004, "daemon", "flowstate", False, False, 0.4, 0.0, OWNED)


@pytest.mark.parametrize(
    ("change", "grade"),
    [
        ({}, Level.OK),
        ({"read_only": True}, Level.FAIL),
        ({"number": 120_019}, Level.WARN),
        ({"latency_ms": 80.0}, Level.WARN),
        ({"pooled": True}, Level.OK),
    ],
)
def test_the_server_is_judged(change: dict[str, object], grade: Level) -> None:
    """A replica, an old version, a long way; a pooler is fine, and said."""
    result = evaluate_server(replace(FINE, **change))  # type: ignore[arg-type]
    assert result.grade is grade
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
def test_a_missing_right_comes_with_the_statement_that_grants_it(rights: SchemaRights, remedy: str) -> None:
    """An administrator can paste it."""
    result = evaluate_schema(rights, "daemon")
    assert result.grade is (Level.FAIL if remedy else Level.OK)
    assert remedy in result.remedy

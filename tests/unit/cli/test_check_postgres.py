"""What `check` makes of what a Postgres says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowstate_daemon.cli.check_postgres import judge_postgres, judge_schema
from flowstate_daemon.cli.verdict import Grade
from flowstate_daemon.database.standing import SchemaRights, Standing

OWNED = SchemaRights(exists=True, may_make=False, may_use=True, may_create=True)
FINE = Standing("16.4", 160_004, "daemon", "flowstate", False, False, 0.4, 0.0, OWNED)


@pytest.mark.parametrize(
    ("change", "grade"),
    [
        ({}, Grade.OK),
        ({"read_only": True}, Grade.FAIL),
        ({"number": 120_019}, Grade.WARN),
        ({"latency_ms": 80.0}, Grade.WARN),
        ({"pooled": True}, Grade.OK),
    ],
)
def test_the_server_is_judged(change: dict[str, object], grade: Grade) -> None:
    """A replica, an old version, a long way; a pooler is fine, and said."""
    verdict = judge_postgres(replace(FINE, **change))  # type: ignore[arg-type]
    assert verdict.grade is grade
    assert ("pooler" in verdict.finding) is ("pooled" in change)


@pytest.mark.parametrize(
    ("rights", "remedy"),
    [
        (OWNED, ""),
        (SchemaRights(exists=False, may_make=True), ""),
        (SchemaRights(exists=False, may_make=False), 'CREATE SCHEMA flowstate_daemon AUTHORIZATION "daemon"'),
        (SchemaRights(exists=True, may_make=True), 'ALTER SCHEMA flowstate_daemon OWNER TO "daemon"'),
        (replace(OWNED, closed=("mails",)), 'GRANT ALL ON ALL TABLES IN SCHEMA flowstate_daemon TO "daemon"'),
    ],
)
def test_a_missing_right_comes_with_the_statement_that_grants_it(rights: SchemaRights, remedy: str) -> None:
    """An administrator can paste it."""
    verdict = judge_schema(rights, "daemon")
    assert verdict.grade is (Grade.FAIL if remedy else Grade.OK)
    assert remedy in verdict.remedy

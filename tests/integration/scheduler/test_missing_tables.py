"""Tables of the application that are missing, changed or unreadable block the kinds that need them, and no others."""

from __future__ import annotations

from uuid import uuid4

import pytest
import structlog

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness, scheduler_harness

REST_S = 61.0
REMINDER, SUMMARY = "task-reminder", "overdue-summary"


async def someone(app: AppTables) -> None:
    """A user with a task due tomorrow, an overdue one, and a session of this week."""
    await app.user("ada", {"timezone": "Europe/Paris"})
    await app.task("ada", "Write", stored(2026, 3, 3, 12))
    await app.task("ada", "Read", stored(2026, 3, 1, 12))
    await app.session("ada", stored(2026, 2, 26, 12))


@pytest.mark.parametrize(
    ("break_it", "repair", "named"),
    [
        ("ALTER TABLE focus_sessions RENAME TO f", "ALTER TABLE f RENAME TO focus_sessions", "focus_sessions"),
        (
            'ALTER TABLE focus_sessions RENAME "startTime" TO s',
            'ALTER TABLE focus_sessions RENAME s TO "startTime"',
            "startTime",
        ),
    ],
)
async def test_kind_with_a_missing_table_is_blocked_alone(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock, break_it: str, repair: str, named: str
) -> None:
    """Without sessions, the other kinds are sent, the missing table is logged once, and reports follow later."""
    await someone(app)
    await app.connection.execute(break_it)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await harness.tick()
            clock.advance(REST_S)
    assert {mail.kind for mail in harness.fake_worker.delivered} == {REMINDER, SUMMARY}
    (waits,) = [line for line in lines if line["event"] == "schedule_blocked"]
    assert (waits["kind"], named in waits["reason"]) == ("focus-report", True)
    await app.connection.execute(repair)
    assert await harness.tick() == 1
    assert harness.fake_worker.delivered[-1].kind == "focus-report"


async def test_table_lost_between_planning_and_enqueuing_loses_nothing(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """The enqueuer releases its leases, and enqueues the emails when the table is back."""
    await someone(app)
    await harness.plan()
    await app.connection.execute("ALTER TABLE projects RENAME TO p")
    with structlog.testing.capture_logs() as lines:
        await harness.tick()
    assert {line["kind"] for line in lines if line["event"] == "schedule_blocked"} == {REMINDER, SUMMARY}
    assert (await harness.outcomes())[REMINDER, "ada"] == ("planned", None)
    await app.connection.execute("ALTER TABLE p RENAME TO projects")
    clock.advance(REST_S)
    await harness.tick()
    assert (await harness.outcomes())[REMINDER, "ada"] == ("sent", None)


async def test_read_only_role_on_the_application_is_enough(
    app: AppTables, migrated_url: str, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """It plans, enqueues, reconciles and sends all three kinds; it cannot write the application's tables."""
    role = f"modest_{uuid4().hex[:8]}"
    await app.connection.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public, flowstate_daemon TO {role};"
        f"GRANT SELECT ON users, tasks, projects, focus_sessions TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA flowstate_daemon TO {role}"
    )
    await someone(app)
    async with scheduler_harness(migrated_url.replace("postgres@", f"{role}@"), connection, keys, clock) as harness:
        assert await harness.tick() == 3
        await harness.scheduler.reconciler.run_once()
        assert {state for state, _ in (await harness.outcomes()).values()} == {"sent"}
    await app.connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

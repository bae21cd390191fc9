"""Tables of the application that are missing, changed or closed: the kinds that need them wait, the others go on."""

from __future__ import annotations

from uuid import uuid4

import pytest
import structlog

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness, scheduler_stage

REST_S = 61.0
REMINDER, SUMMARY = "task-reminder", "overdue-summary"


async def someone(app: AppTables) -> None:
    """With a task that is due tomorrow, one that was due yesterday, and a session of this week."""
    await app.user("ada", {"timezone": "Europe/Paris"})
    await app.task("ada", "Write", stored(2026, 3, 3, 12))
    await app.task("ada", "Read", stored(2026, 3, 1, 12))
    await app.session("ada", stored(2026, 2, 26, 12))


@pytest.mark.parametrize(
    ("break_it", "mend_it", "named"),
    [
        ("ALTER TABLE focus_sessions RENAME TO f", "ALTER TABLE f RENAME TO focus_sessions", "focus_sessions"),
        (
            'ALTER TABLE focus_sessions RENAME "startTime" TO s',
            'ALTER TABLE focus_sessions RENAME s TO "startTime"',
            "startTime",
        ),
    ],
)
async def test_a_kind_waits_for_what_it_lacks_and_the_others_go_on(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock, break_it: str, mend_it: str, named: str
) -> None:
    """Without sessions: reminders and summaries, one line that names what is missing, reports once it is back."""
    await someone(app)
    await app.connection.execute(break_it)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await stage.tick()
            clock.advance(REST_S)
    assert {mail.kind for mail in stage.fake_worker.carried} == {REMINDER, SUMMARY}
    (waits,) = [line for line in lines if line["event"] == "schedule_blocked"]
    assert (waits["kind"], named in waits["reason"]) == ("focus-report", True)
    await app.connection.execute(mend_it)
    assert await stage.tick() == 1
    assert stage.fake_worker.carried[-1].kind == "focus-report"


async def test_what_breaks_between_planning_and_feeding_keeps_its_slots(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock
) -> None:
    """The feeder gives its slots back, and feeds them when the table is there again."""
    await someone(app)
    await stage.plan()
    await app.connection.execute("ALTER TABLE projects RENAME TO p")
    with structlog.testing.capture_logs() as lines:
        await stage.tick()
    assert [line["kind"] for line in lines if line["event"] == "schedule_blocked"] == [REMINDER]
    assert (await stage.outcomes())[REMINDER, "ada"] == ("planned", None)
    await app.connection.execute("ALTER TABLE p RENAME TO projects")
    clock.advance(REST_S)
    await stage.tick()
    assert (await stage.outcomes())[REMINDER, "ada"] == ("sent", None)


async def test_a_role_that_may_only_read_the_application_is_enough(
    app: AppTables, migrated_url: str, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """It plans, feeds, looks after lost jobs and sends all three kinds; the application's tables it cannot write."""
    role = f"modest_{uuid4().hex[:8]}"
    await app.connection.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public, flowstate_daemon TO {role};"
        f"GRANT SELECT ON users, tasks, projects, focus_sessions TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA flowstate_daemon TO {role}"
    )
    await someone(app)
    async with scheduler_stage(migrated_url.replace("postgres@", f"{role}@"), connection, keys, clock) as stage:
        assert await stage.tick() == 3
        await stage.scheduler.reconciler.run_once()
        assert {state for state, _ in (await stage.outcomes()).values()} == {"sent"}
    await app.connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

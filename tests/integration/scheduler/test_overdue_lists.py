"""Overdue summaries on real stores: once a week while the list does not change, and tasks of deleted projects."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.app_tables import AppTables, stored
from tests.support.scheduler import SchedulerHarness

REMINDER, SUMMARY = "task-reminder", "overdue-summary"
DAY_S = 86_400


async def summaries(harness: SchedulerHarness, days: int) -> list[str]:
    """For each of these days, the cadence of the summary, or `-` for none."""
    found = []
    for _ in range(days):
        await harness.tick()
        mails = [mail for mail in harness.fake_worker.delivered if mail.kind == SUMMARY]
        harness.fake_worker.delivered.clear()
        found.append(mails[0].context.get("cadence") or "daily" if mails else "-")
        harness.clock.advance(DAY_S)
    return found


WEEKS = [*["daily"] * 7, "unchanged", *"------", "unchanged"]


async def test_unchanged_list_is_sent_once_a_week(app: AppTables, harness: SchedulerHarness) -> None:
    """After seven days without a change the summary comes once a week, and the other days are explained."""
    await app.user("ada")
    await app.task("ada", "Old", stored(2026, 1, 1))
    assert await summaries(harness, 15) == WEEKS
    reasons = [row["reason"] for row in await harness.scheduled_mails() if row["state"] == "skipped"]
    assert reasons == ["the list has not changed for a week, so it is sent once a week"] * 6


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE tasks SET "isCompleted" = true WHERE id = 't11'""",
        """UPDATE tasks SET "dueDate" = "dueDate" - interval '1 day' WHERE id = 't11'""",
        "UPDATE tasks SET title = 'Another' WHERE id = 't11'",
        """UPDATE tasks SET "deletedAt" = now() WHERE id = 't11'""",
        "DELETE FROM tasks WHERE id = 't11'",
        """UPDATE tasks SET "isCompleted" = (id = 't11') WHERE id IN ('t11', 't12')""",
        """UPDATE projects SET "deletedAt" = now()""",
    ],
)
async def test_any_change_of_the_list_makes_it_daily(app: AppTables, harness: SchedulerHarness, change: str) -> None:
    """Also a change behind the first ten tasks, and one that leaves their number the same."""
    await app.user("ada")
    project = await app.project("ada", "Work")
    for number in range(13):
        task = {"id": f"t{number}", "isCompleted": number == 12, "projectId": project if number == 11 else None}
        await app.task("ada", f"Task {number}", stored(2026, 1, 1) + timedelta(days=number), **task)
    assert await summaries(harness, 9) == WEEKS[:9]
    await app.connection.execute(change)
    assert await summaries(harness, 9) == [*["daily"] * 7, "unchanged", "-"]


async def test_tasks_of_deleted_projects_are_not_reminded_of(app: AppTables, harness: SchedulerHarness) -> None:
    """Neither in reminders nor in summaries, nor counted; without any other task there is no email at all."""
    for user_id in ("ada", "ben"):
        await app.user(user_id)
        project = await app.project(user_id, "Gone")
        for due in (stored(2026, 3, 3, 12), stored(2026, 1, 1)):
            await app.task(user_id, "In it", due, projectId=project)
    await app.connection.execute("""UPDATE projects SET "deletedAt" = now()""")
    kept = await app.project("ada", "Kept")
    await app.task("ada", "Write", stored(2026, 3, 3, 12), projectId=kept)
    await app.task("ada", "Read", stored(2026, 1, 2))
    await harness.tick()
    found = {(mail.kind, mail.to): mail.context for mail in harness.fake_worker.delivered}
    assert set(found) == {(REMINDER, "ada@example.org"), (SUMMARY, "ada@example.org")}
    assert [task["title"] for task in found[REMINDER, "ada@example.org"]["tasks"]] == ["Write"]
    assert found[REMINDER, "ada@example.org"]["taskCount"] == 1
    assert [task["title"] for task in found[SUMMARY, "ada@example.org"]["tasks"]] == ["Read"]
    assert found[SUMMARY, "ada@example.org"]["overdueCount"] == 1


async def test_project_deleted_between_planning_and_sending(app: AppTables, harness: SchedulerHarness) -> None:
    """The data is read at the last moment: nothing is left to send, with the reason."""
    await app.user("ada")
    project = await app.project("ada", "Gone")
    for due in (stored(2026, 3, 3, 12), stored(2026, 1, 1)):
        await app.task("ada", "In it", due, projectId=project)
    await harness.plan()
    await app.connection.execute("""UPDATE projects SET "deletedAt" = now()""")
    await harness.tick()
    assert await harness.outcomes() == {
        (REMINDER, "ada"): ("skipped", "nothing due tomorrow"),
        (SUMMARY, "ada"): ("skipped", "nothing overdue"),
    }

"""Commands about the calendar, as an operator types them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from flowstate_daemon.dev.embedded import free_port
from tests.process.test_database_commands import Type, typed
from tests.process.test_database_commands import type_ as type_  # noqa: PLC0414 - a fixture
from tests.support.app_tables import AppTables

TITLE = "Write\x1b[31m the\nreport"


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[AppTables]:
    """Ada has something due tomorrow at this hour, and Bob, who has not verified his address, too."""
    connection = await asyncpg.connect(database_url)
    app = AppTables(connection)
    tomorrow = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)  # commands live by the real clock
    for recipient in ("ada", "bob"):
        await app.user(recipient, {"timezone": "UTC"}, isEmailVerified=recipient == "ada")
        await app.task(recipient, TITLE, tomorrow)
    yield app
    await connection.close()


async def test_a_rehearsal_tells_who_gets_what_and_why_others_do_not(type_: Type, app: AppTables) -> None:
    """A line for each, which no title breaks; for programs one document with the mails; nothing is written."""
    await type_("migrate")
    said = await type_("schedule", "run", "task-reminder", "--dry-run")
    assert said.code == 0
    assert "1 would be sent, 1 would not; nothing was written" in said.out
    assert "\x1b" not in said.out
    [ada] = [line for line in said.out.splitlines() if "ada@example.org" in line]
    assert ": send  Due tomorrow" in ada
    output = (await type_("schedule", "run", "task-reminder", "--dry-run", "--bodies", "--json")).document
    assert (output["sends"], output["skips"]) == (1, 1)
    assert {one["user_id"]: one.get("reason") for one in output["recipients"]} == {
        "ada": None,
        "bob": "the user has not verified the address",
    }
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 0


async def test_a_calendar_that_is_off_can_be_rehearsed_but_not_run(database_url: str, app: AppTables) -> None:
    """Before a change-over one wants to see who would get what; what a run planned would lie there unsent."""
    off = {"DATABASE_URL": database_url, "FLOWSTATE_SCHEDULE_ENABLED": "false"}
    await typed("migrate", **off)
    assert "1 would be sent" in (await typed("schedule", "run", "task-reminder", "--dry-run", **off)).out
    said = await typed("schedule", "run", "task-reminder", **off)
    assert (said.code, "schedules are disabled" in said.err) == (78, True)
    assert "schedules are disabled" in (await typed("schedule", "list", **off)).out
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 0


async def test_a_run_plans_once_and_the_list_shows_what_is_next(type_: Type, app: AppTables) -> None:
    """It reports found, recipients and scheduled; a second run schedules nothing."""
    await type_("migrate")
    ran = (await type_("schedule", "run", "task-reminder", "--json")).document
    assert (ran["found"], ran["recipients"], ran["scheduled"], ran["reopened"]) == (2, 2, 2, 0)
    assert "running daemons send these" not in (await type_("schedule", "run", "task-reminder")).out
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 2
    table = await type_("schedule", "list")
    assert table.code == 0
    assert all(word in table.out for word in ("task-reminder", "overdue-summary", "focus-report", "Europe/Paris"))
    assert {one["name"] for one in (await type_("schedule", "list", "--json")).document} >= {"focus-report"}


@pytest.mark.parametrize(
    "text",
    [
        ("pigeons",),
        ("task-reminder", "--at", "tomorrow"),
        ("task-reminder", "--at", "0001-01-01T00:00:00+14:00"),
        ("task-reminder", "--at", "9999-12-31T00:00:00Z"),
        ("task-reminder", "--bodies"),
        ("task-reminder", "--at", "9999-12-31T00:00:00Z", "--dry-run"),
    ],
)
async def test_wrong_usage_is_said_and_plans_nothing(type_: Type, app: AppTables, text: tuple[str, ...]) -> None:
    """Exit code 64, without a traceback."""
    await type_("migrate")
    said = await type_("schedule", "run", *text)
    assert (said.code, "Traceback" in said.err, said.err != "") == (64, False, True)
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 0


async def test_without_stores_the_exit_code_says_why(type_: Type, app: AppTables) -> None:
    """No DATABASE_URL, a database that is away, and one that was never migrated."""
    assert (await typed("schedule", "list")).code == 78
    away = f"postgresql://u:geheim@127.0.0.1:{free_port()}/d"
    said = await typed("schedule", "run", "task-reminder", DATABASE_URL=away)
    assert (said.code, "geheim" in said.err) == (69, False)
    said = await type_("schedule", "run", "task-reminder")
    assert (said.code, "flowstate-daemon migrate" in said.err) == (69, True)

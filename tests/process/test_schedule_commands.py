"""Commands of the scheduler as an operator runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from flowstate_daemon.dev.embedded import free_port
from tests.process.test_database_commands import RunCommand, run_command
from tests.process.test_database_commands import run as run  # noqa: PLC0414 - a fixture
from tests.support.app_tables import AppTables

TITLE = "Write\x1b[31m the\nreport"


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[AppTables]:
    """Ada and Bob have a task due tomorrow at this hour; Bob has not verified his address."""
    connection = await asyncpg.connect(database_url)
    app = AppTables(connection)
    tomorrow = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)  # commands use the real clock
    for recipient in ("ada", "bob"):
        await app.user(recipient, {"timezone": "UTC"}, isEmailVerified=recipient == "ada")
        await app.task(recipient, TITLE, tomorrow)
    yield app
    await connection.close()


async def test_dry_run_shows_recipients_and_reasons(run: RunCommand, app: AppTables) -> None:
    """There is one line per recipient, JSON contains the emails, and nothing is written."""
    await run("migrate")
    result = await run("schedule", "run", "task-reminder", "--dry-run")
    assert result.code == 0
    assert "1 would be sent, 1 would not; nothing was written" in result.out
    assert "\x1b" not in result.out
    [ada] = [line for line in result.out.splitlines() if " ada a***@example.org" in line]
    assert ": send  Due tomorrow" in ada
    assert "ada@example.org" not in result.out
    revealed = await run("schedule", "run", "task-reminder", "--dry-run", "--reveal")
    assert "ada@example.org" in revealed.out
    (recorded, *_) = (await run("suppression", "audit", "--json")).document
    assert (recorded["action"], recorded["target"]) == ("addresses revealed", "schedule run task-reminder --dry-run")
    document = (await run("schedule", "run", "task-reminder", "--dry-run", "--bodies", "--json")).document
    assert (document["sends"], document["skips"]) == (1, 1)
    assert {one["user_id"]: one.get("reason") for one in document["recipients"]} == {
        "ada": None,
        "bob": "the user has not verified the address",
    }
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 0


async def test_dry_run_for_one_address(run: RunCommand, app: AppTables) -> None:
    """In any spelling: the email or the reason; what finds nothing says so, and a real run for one is refused."""
    await run("migrate")
    command = ("schedule", "run", "task-reminder", "--dry-run", "--to")
    result = await run(*command, "Ada@EXAMPLE.org")
    assert (result.code, "1 would be sent, 0 would not; nothing was written" in result.out) == (0, True)
    assert " bob " not in result.out
    document = (await run(*command, "bob@example.org", "--json")).document
    assert [one["reason"] for one in document["recipients"]] == ["the user has not verified the address"]
    assert "nothing for e***@example.org" in (await run(*command, "eve@example.org")).out
    nothing = await run(*command, "eve@example.org", "--json")
    assert (nothing.code, nothing.document["recipients"]) == (0, [])
    for wrong in (("schedule", "run", "task-reminder", "--to", "ada@example.org"), (*command, "ada"), (*command, "")):
        result = await run(*wrong)
        assert (result.code, "--to" in result.err) == (64, True)
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 0


async def test_manual_run_that_found_no_recipient_says_so(run: RunCommand, app: AppTables) -> None:
    """`schedule list` and `status` name the manual run, and not only that there were no emails."""
    await run("migrate")
    for _ in range(2):  # the second one finds everybody planned already
        await run("schedule", "run", "task-reminder")
    await run("schedule", "run", "focus-report")
    for command in (("schedule", "list"), ("status",)):
        output = " ".join((await run(*command)).out.split())
        assert "no emails" not in output
        assert output.count("no new recipient was due") == 2, output
    summary = (await run("status", "--json")).document["schedules"]["next"]
    last = {one["name"]: (one["last_source"], one["last_scheduled"]) for one in summary}
    assert last == {"task-reminder": ("manual", 0), "focus-report": ("manual", 0), "overdue-summary": (None, None)}


async def test_disabled_scheduler_allows_a_dry_run_only(database_url: str, app: AppTables) -> None:
    """Before a cut-over a dry run shows the recipients; a real run is refused, since its emails would not be sent."""
    disabled = {"DATABASE_URL": database_url, "FLOWSTATE_SCHEDULE_ENABLED": "false"}
    await run_command("migrate", **disabled)
    assert "1 would be sent" in (await run_command("schedule", "run", "task-reminder", "--dry-run", **disabled)).out
    result = await run_command("schedule", "run", "task-reminder", **disabled)
    assert (result.code, "schedules are disabled" in result.err) == (78, True)
    assert "schedules are disabled" in (await run_command("schedule", "list", **disabled)).out
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 0


async def test_run_schedules_once_and_list_shows_the_next_runs(run: RunCommand, app: AppTables) -> None:
    """The first run reports what it scheduled; a second run schedules nothing."""
    await run("migrate")
    summary = (await run("schedule", "run", "task-reminder", "--json")).document
    assert (summary["found"], summary["recipients"], summary["scheduled"], summary["reopened"]) == (2, 2, 2, 0)
    again = (await run("schedule", "run", "task-reminder")).out
    assert ("running daemons send these" in again, "planned for that date already" in again) == (False, True)
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 2
    table = await run("schedule", "list")
    assert table.code == 0
    assert all(word in table.out for word in ("task-reminder", "overdue-summary", "focus-report", "Europe/Paris"))
    assert {one["name"] for one in (await run("schedule", "list", "--json")).document} >= {"focus-report"}


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
async def test_wrong_usage_schedules_nothing(run: RunCommand, app: AppTables, text: tuple[str, ...]) -> None:
    """The exit code is 64, with a message and without a traceback."""
    await run("migrate")
    result = await run("schedule", "run", *text)
    assert (result.code, "Traceback" in result.err, result.err != "") == (64, False, True)
    assert await app.connection.fetchval("SELECT count(*) FROM flowstate_daemon.scheduled_mails") == 0


async def test_exit_code_without_database(run: RunCommand, app: AppTables) -> None:
    """Without DATABASE_URL it is 78; with an unreachable database or without migrations it is 69."""
    assert (await run_command("schedule", "list")).code == 78
    unreachable = f"postgresql://u:geheim@127.0.0.1:{free_port()}/d"
    result = await run_command("schedule", "run", "task-reminder", DATABASE_URL=unreachable)
    assert (result.code, "geheim" in result.err) == (69, False)
    result = await run("schedule", "run", "task-reminder")
    assert (result.code, "flowstate-daemon migrate" in result.err) == (69, True)


async def test_bodies_are_printed_as_they_are(run: RunCommand, app: AppTables) -> None:
    """The no-break spaces of French are characters, not escapes; control characters of users stay escaped."""
    await run("migrate")
    await app.connection.execute("""UPDATE users SET preferences = '{"timezone": "UTC", "language": "fr"}'""")
    result = await run("schedule", "run", "task-reminder", "--dry-run", "--bodies")
    assert result.code == 0
    assert any(space in result.out for space in "\u00a0\u202f")
    assert not any(escape in result.out for escape in ("\\xa0", "\\u202f", "\x1b"))

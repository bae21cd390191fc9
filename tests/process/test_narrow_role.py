"""The Postgres permissions that the pages grant: the same everywhere, and enough for the daemon and every command."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator, known_migrations
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.server_info import COLUMNS_BY_TABLE, grant_select
from flowstate_daemon.redis_client.keys import Keys
from tests.docs.pages import PAGES
from tests.process.conftest import MakeDaemon
from tests.process.test_database_commands import run_command
from tests.support.app_tables import AppTables
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

GRANT = re.compile(r"^ *(GRANT (?:USAGE|SELECT)[^;\n]* TO mailer);$", re.MULTILINE)
KINDS = ("task-reminder", "overdue-summary", "focus-report")
SCRIPT = Path(__file__).parents[2] / "config" / "postgres" / "grant.sh"
# Every command that uses Postgres; what changes something comes before what shows it.
COMMANDS = (
    ("migrate",),
    ("check",),
    ("status",),
    ("schedule", "list"),
    *(("schedule", "run", kind, "--dry-run", "--bodies") for kind in KINDS),
    ("emails", "list"),
    ("explain", "ada@example.org"),
    ("suppression", "add", "bob@example.org", "--note", "asked for it"),
    ("suppression", "list"),
    ("suppression", "audit"),
    ("suppression", "remove", "bob@example.org"),
    ("unsubscribed", "add", "bob@example.org", "--kind", "task-reminder"),
    ("unsubscribed", "list"),
    ("unsubscribed", "remove", "bob@example.org"),
    ("suppression", "export", "list.csv", "--yes"),
    ("suppression", "import", "list.csv", "--dry-run"),
    ("forget", "ada@example.org", "--yes"),
)


def grants(text: str) -> list[str]:
    return GRANT.findall(text)


PAGES_WITH_GRANTS = {name: grants(page.text) for name, page in PAGES.items() if grants(page.text)}
STATEMENTS = PAGES_WITH_GRANTS["docs/security.md"]


def test_pages_grant_the_same() -> None:
    """Set-up, security and both languages, so that no reader grants the passwords of the users."""
    assert {"docs/setup.md", "docs/security.md", "docs/fr/installation.md"} <= PAGES_WITH_GRANTS.keys()
    assert [name for name, found in PAGES_WITH_GRANTS.items() if found != STATEMENTS] == []


def test_grants_are_those_that_check_and_the_script_give() -> None:
    """The columns of `users` are those that the code reads; a change of the list has to reach every place."""
    columns = ", ".join(COLUMNS_BY_TABLE["users"])
    assert f"SELECT ({columns}) ON users TO mailer" in STATEMENTS[1].replace('"', "")
    assert f"SELECT ({columns}) ON public.users TO mailer" in SCRIPT.read_text().replace('"', "")
    assert (
        grant_select("public", "users", "mailer").replace('"', "")
        == f"GRANT SELECT ({columns}) ON public.users TO mailer"
    )
    others = COLUMNS_BY_TABLE.keys() - {"users"}
    assert set(re.findall(r"\w+", STATEMENTS[2])) & COLUMNS_BY_TABLE.keys() == others


async def test_schema_of_another_role_can_be_upgraded(database_url: str) -> None:
    """What security.md runs for a schema that another role created is enough for the next version's migrations."""
    role = f"r{uuid4().hex[:12]}"
    owner = await asyncpg.connect(database_url)
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool, known_migrations()[:6]).apply()
    found = re.search(r"^psql flowstate <<SQL\n(.*?)^SQL$", PAGES["docs/security.md"].text, re.DOTALL | re.MULTILINE)
    assert found is not None
    script = found[1].replace("mailer", role)
    for part in re.findall(r"(.*?)(?:;|(\\gexec))\n", script, re.DOTALL):
        for row in await owner.fetch(part[0]) if part[1] else [part]:
            await owner.execute(row[0])
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    async with open_pool(clean_dsn(url)) as pool:
        assert await Migrator(pool).apply() == list(known_migrations()[6:])
    await owner.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    await owner.close()


@pytest.fixture
async def narrow_url(database_url: str) -> AsyncIterator[str]:
    """The URL of a role with the schema of its own and the grants of the pages, and of nothing else."""
    role = f"r{uuid4().hex[:12]}"
    owner = await asyncpg.connect(database_url)
    await owner.execute(f"CREATE ROLE {role} LOGIN; CREATE SCHEMA flowstate_daemon AUTHORIZATION {role}")
    await owner.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    for statement in STATEMENTS:
        await owner.execute(statement.replace("mailer", role))
    parts = urlsplit(database_url)
    yield parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    await owner.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    await owner.close()


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[AppTables]:
    """Ada has a task due tomorrow in a project, one due yesterday, and a focus session."""
    connection = await asyncpg.connect(database_url)
    app = AppTables(connection)
    now = datetime.now(UTC).replace(tzinfo=None)  # the daemon uses the real clock
    await app.user("ada", {"timezone": "UTC", "language": "fr"}, password="secret")
    project = await app.project("ada", "Garden")
    await app.task("ada", "Sow", now + timedelta(days=1), projectId=project)
    task = await app.task("ada", "Dig", now - timedelta(days=1))
    await app.session("ada", now - timedelta(days=1, hours=1), actualDuration=25, focusRating=4, taskId=task)
    yield app
    await connection.close()


async def test_role_is_enough_for_the_daemon_and_every_command(
    make_daemon: MakeDaemon, provider: FakeResend, valkey_url: str, keys: Keys, narrow_url: str, app: AppTables,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """All three schedules send, in the user's language; no command fails or says that it may not read something."""
    monkeypatch.chdir(tmp_path)
    provider.verified = {"flowstate.example"}
    settings = {
        "REDIS_URL": valkey_url,
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
        "DATABASE_URL": narrow_url,
        "RESEND_API_URL": provider.url,
        "RESEND_API_KEY": provider.api_key,
        "RESEND_FROM_EMAIL": "FlowState <hello@flowstate.example>",
        "FRONTEND_URL": "https://app.flowstate.example",
        "FLOWSTATE_HTTP_PUBLIC_URL": "https://mail.flowstate.example",
        "FLOWSTATE_HTTP_LINK_SECRET": uuid4().hex,
    }
    async with make_daemon(**settings) as daemon:
        await daemon.ready()
        port = {"FLOWSTATE_HTTP_PORT": str(daemon.port)}
        for kind in KINDS:
            result = await run_command("schedule", "run", kind, "--json", **settings, **port)
            assert json.loads(result.out)["recipients"] >= 1, (kind, result.out, result.err)

        async def sent() -> bool:
            return len(provider.accepted) >= len(KINDS)

        await eventually(sent, "one email of each schedule")
        assert {mail.to[0] for mail in provider.accepted} == {"ada@example.org"}
        assert any("Garden" in str(mail) for mail in provider.accepted)

        async def in_ledger() -> bool:
            shown = await run_command("explain", "ada@example.org", **settings, **port)
            return shown.out.count("sent") >= len(KINDS)

        await eventually(in_ledger, "the outcomes in the ledger")
        for command in COMMANDS:
            result = await run_command(*command, **settings, **port)
            assert "permission denied" not in result.out + result.err, command
            assert result.code == 0 or command == ("status",), f"{command}\n{result.out}\n{result.err}"
        log = daemon.log_text()
    assert "permission denied" not in log
    assert "may not read" not in log
    connection = await asyncpg.connect(narrow_url)
    for refused in (
        "SELECT password FROM users",
        "SELECT * FROM users",
        "DELETE FROM tasks",
        "UPDATE users SET id = id",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(refused)
    await connection.close()

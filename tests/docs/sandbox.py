"""Runs the commands of the documentation with a real Valkey and Postgres, a fake provider, and a reader's PATH.

The pages use default addresses (`redis://127.0.0.1:6379`, port 8080, …); only these are replaced by those of the
sandbox. A page runs in one shell, from its first block to its last, with its own database and queue.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
from redis.asyncio import Redis

from flowstate_daemon.dev.embedded import EmbeddedPostgres, EmbeddedValkey, free_port, postgres_binaries
from flowstate_daemon.dev.process import ManagedProcess
from tests.docs.pages import ROOT, Block, Page
from tests.support.fake_resend import FakeResend

PROGRAMS = Path(__file__).parent / "fake_programs"
PAGE_TIMEOUT_S = 90.0
TEMPLATE = "docs_template"
DATABASE = "flowstate"
DAY_MS = 86_400_000
# They change the machine or use the network: a block with one of them must be marked.
FORBIDDEN_PROGRAMS = ("sudo", "systemctl", "journalctl", "docker", "apt-get", "pip", "npm", "make")
POSTGRES_PROGRAMS = ("psql", "pg_dump", "pg_restore", "createdb", "dropdb")  # from the embedded server
STOPPED_MARKER = "<!-- the daemon is stopped -->"  # in a page that runs without a daemon
BLOCK_MARKER = "@@ block "
OWN_DAEMON = re.compile(r"^(\w+=\S+ )*flowstate-daemon (--config \S+ )?run\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """The exit code of a page's shell, and the output of each block that started."""

    code: int
    outputs: Sequence[str]


class DocsSandbox:
    """One per session; pages run one after the other."""

    def __init__(self, folder: Path, valkey: EmbeddedValkey, postgres: EmbeddedPostgres, provider: FakeResend) -> None:
        self.folder = folder
        self.port = free_port()
        self._valkey = valkey
        self._postgres = postgres
        self._provider = provider
        self._preloaded = ManagedProcess("preloaded", folder, last_signal=signal.SIGTERM)
        self._socket_folder = parse_qs(urlsplit(postgres.url()).query)["host"][0]

    async def open(self) -> None:
        """Install the programs and start the preloaded command process."""
        await asyncio.to_thread(self._install_programs)
        socket_path = self.folder / "bin" / "preloaded.sock"

        async def is_ready() -> bool:
            return socket_path.exists()

        await self._preloaded.start([sys.executable, str(PROGRAMS / "preloaded.py"), str(socket_path)], is_ready)

    async def close(self) -> None:
        await self._preloaded.stop()

    def _install_programs(self) -> None:
        """The folder of programs: fakes, programs that refuse to run, and Postgres clients."""
        programs = self.folder / "bin"
        programs.mkdir()
        for script in PROGRAMS.iterdir():
            if not script.suffix:
                (programs / script.name).write_text(f"#!{sys.executable} -IS\n{script.read_text()}")
                (programs / script.name).chmod(0o755)
        for name in FORBIDDEN_PROGRAMS:
            (programs / name).write_text("#!/bin/sh\necho 'this block needs a marker: <!-- needs: … -->'; exit 126\n")
            (programs / name).chmod(0o755)
        for name in POSTGRES_PROGRAMS:
            (programs / name).symlink_to(postgres_binaries() / name)

    def redis_cli(self, program: str, command: str) -> str:
        """The output of a redis-cli program for a command on the sandbox's Valkey."""
        address = ["-u", self._valkey.url]
        path = str(self.folder / "bin" / program) if "/" not in program else program
        return subprocess.run([path, *address, *command.split()], text=True, capture_output=True, check=False).stdout

    async def run_page(self, page: Page) -> CommandOutput:
        """Run the page's unmarked blocks in one shell, which is killed after a timeout."""
        blocks = [block for block in page.blocks if block.language in {"sh", "sql"} and block.needs is None]
        folder = self.folder / page.name.replace("/", "-")
        folder.mkdir()
        for part in ("config", "systemd", "docker-compose.yml"):
            (folder / part).symlink_to(ROOT / part)
        await self._reset_stores()
        script = folder / "page.sh"
        own_daemon = any(OWN_DAEMON.search(block.text) for block in blocks)
        script.write_text(self._script(page, blocks, own_daemon=own_daemon))
        environment = self._environment(folder) if own_daemon else self._environment(folder) | self._deployment()
        shell = await asyncio.create_subprocess_exec(
            *("bash", str(script)),
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                out, _ = await shell.communicate()
        finally:
            if shell.returncode is None:
                os.killpg(shell.pid, signal.SIGKILL)
                await shell.wait()
        outputs = re.split(rf"^{BLOCK_MARKER}\d+\n", out.decode(errors="replace"), flags=re.MULTILINE)
        return CommandOutput(shell.returncode or 0, outputs[1:])

    def _script(self, page: Page, blocks: Sequence[Block], *, own_daemon: bool) -> str:
        parts = [(PROGRAMS / "prologue.sh").read_text()]
        if not own_daemon:
            parts.append(
                "flowstate-daemon migrate >/dev/null" if STOPPED_MARKER in page.text else "flowstate-daemon run"
            )
        for number, block in enumerate(blocks):
            parts.append(f"printf '\\n%s\\n' '{BLOCK_MARKER}{number}'")
            text = self._replace_addresses(block.text)
            parts.append(text if block.language == "sh" else f"psql -X -q -v ON_ERROR_STOP=1 <<'SQL'\n{text}SQL")
        return "\n".join(parts) + "\n"

    def _replace_addresses(self, text: str) -> str:
        """The text with the addresses of the sandbox."""
        text = re.sub(r"redis://(\w+:[\w$-]+@)?(?:localhost|127\.0\.0\.1):6379", self._redis_url, text)
        text = re.sub(r"@(localhost|127\.0\.0\.1):5432/flowstate(\?schema=public)?", self._database_location(), text)
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}").replace("re_…", self._provider.api_key)

    def _redis_url(self, default: re.Match[str]) -> str:
        return f"redis://{default[1] or ''}127.0.0.1:{self._valkey.port}"

    def _database_location(self) -> str:
        return f"@/{DATABASE}?host={self._socket_folder}&schema=public"

    def _environment(self, folder: Path) -> dict[str, str]:
        """The environment of every page: programs, and addresses that the pages do not name."""
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "DOCS_FOLDER": str(folder),
            "LANG": "C.UTF-8",
            "FLOWSTATE_HTTP_PORT": str(self.port),
            "RESEND_API_URL": self._provider.url,
            "PGHOST": self._socket_folder,
            "PGUSER": "postgres",
            "PGDATABASE": DATABASE,
        }

    def _deployment(self) -> dict[str, str]:
        """A complete configuration, for pages that assume a running daemon."""
        return {
            "REDIS_URL": self._valkey.url,
            "DATABASE_URL": f"postgresql://postgres{self._database_location()}",
            "RESEND_FROM_EMAIL": "FlowState <hello@example.com>",
            "RESEND_API_KEY": self._provider.api_key,
            "FRONTEND_URL": "https://app.example.com",
            "FLOWSTATE_HTTP_PUBLIC_URL": "https://mail.example.com",
            "FLOWSTATE_HTTP_LINK_SECRET": "l" * 32,
            "FLOWSTATE_HTTP_API_TOKEN": "t" * 32,
            "FLOWSTATE_RESEND_WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
            "FLOWSTATE_QUEUE_INSTANCE_ID": "mail-1",
        }

    async def _reset_stores(self) -> None:
        """A new database with sample users, and a queue with the jobs that the pages mention."""
        server = await asyncpg.connect(self._postgres.url())
        await server.execute(f'DROP DATABASE IF EXISTS "{DATABASE}" WITH (FORCE)')
        for row in await server.fetch("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'"):
            await server.execute(f'DROP ROLE "{row["rolname"]}"')
        await server.execute(f'CREATE DATABASE "{DATABASE}" TEMPLATE "{TEMPLATE}"')
        await server.close()
        async with Redis.from_url(self._valkey.url, protocol=2) as redis:
            await redis.flushall()
            await _seed(redis)


async def _seed(redis: Redis) -> None:
    """As Bull stores them: 41 and 42 have failed, 43 and 44 are delayed by a day; the next id is 45.

    Job 41 is an overdue summary of the backend's worker, whose template fails.
    """
    seconds, _ = await redis.time()
    now = seconds * 1000
    data = {"type": "welcome", "to": "grace@example.org", "context": {"name": "Grace"}}
    job = {"name": "welcome", "data": json.dumps(data), "opts": json.dumps({"attempts": 3}), "timestamp": now}
    reason = "Resend: Invalid `to` field. (422 validation_error)"
    failed = {**job, "failedReason": reason, "attemptsMade": 3, "finishedOn": now, "stacktrace": "[]", "delay": 0}
    await redis.hset("bull:email:42", mapping={**failed, "priority": 5})
    await redis.zadd("bull:email:failed", {"42": now})
    summary = {"userName": "Ada", "overdueCount": 1, "overdueTasks": "Sow - 1 day overdue"}
    left = {"type": "overdue-summary", "to": "ada@example.org", "context": summary}
    helper = {"name": "overdue-summary", "data": json.dumps(left), "failedReason": 'Missing helper: "gt"'}
    await redis.hset("bull:email:41", mapping={**failed, **helper, "priority": 5})
    await redis.zadd("bull:email:failed", {"41": now})
    for number in ("43", "44"):
        delayed = {**job, "opts": json.dumps({"attempts": 3, "delay": DAY_MS}), "delay": DAY_MS, "priority": 0}
        await redis.hset(f"bull:email:{number}", mapping=delayed)
        await redis.zadd("bull:email:delayed", {number: (now + DAY_MS) * 4096 + int(number)})
    await redis.set("bull:email:id", 44)

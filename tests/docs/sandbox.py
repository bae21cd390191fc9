"""Where the handbook's commands are run: real stores, a stand-in for the provider, and a shell whose PATH has what a
reader has.

The pages speak of usual places (`redis://127.0.0.1:6379`, port 8080, …). Nothing but these is replaced by where the
stage's own stand; a page runs in one shell, from its first block to its last, with a database and a queue of its own.
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

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE_S = 90.0
TEMPLATE = "handbook"
DATABASE = "flowstate"
DAY_MS = 86_400_000
# They would change the machine, or ask somebody outside: a block with one of them has to be marked.
OUT_OF_BOUNDS = ("sudo", "systemctl", "journalctl", "docker", "apt-get", "pip", "npm", "make")
OFTEN_MISSING = ("psql", "pg_dump", "pg_restore", "createdb", "dropdb")  # they come with the embedded server
STOPPED = "<!-- the daemon is stopped -->"  # in a page that is played without one
MARK = "@@ block "
OWN_DAEMON = re.compile(r"^(\w+=\S+ )*flowstate-daemon (--config \S+ )?run\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a page's shell said: its exit code, and the output of each block that was begun."""

    code: int
    outputs: Sequence[str]


class DocsSandbox:
    """One for the session; pages come one after the other."""

    def __init__(self, folder: Path, valkey: EmbeddedValkey, postgres: EmbeddedPostgres, provider: FakeResend) -> None:
        self.folder = folder
        self.port = free_port()
        self._valkey = valkey
        self._postgres = postgres
        self._provider = provider
        self._warm = ManagedProcess("warm", folder, last_signal=signal.SIGTERM)
        self._socket_folder = parse_qs(urlsplit(postgres.url()).query)["host"][0]

    async def open(self) -> None:
        """Lay everything out, and warm the commands up."""
        await asyncio.to_thread(self._furnish)
        door = self.folder / "bin" / "warm.sock"

        async def answers() -> bool:
            return door.exists()

        await self._warm.start([sys.executable, str(PROGRAMS / "warm.py"), str(door)], answers)

    async def close(self) -> None:
        await self._warm.stop()

    def _furnish(self) -> None:
        """The folder of programs, and the project as a reader sees it: nothing that a block writes reaches it."""
        programs = self.folder / "bin"
        programs.mkdir()
        for script in PROGRAMS.iterdir():
            if not script.suffix:
                (programs / script.name).write_text(f"#!{sys.executable} -IS\n{script.read_text()}")
                (programs / script.name).chmod(0o755)
        for name in OUT_OF_BOUNDS:
            (programs / name).write_text("#!/bin/sh\necho 'this block must say what it needs'; exit 126\n")
            (programs / name).chmod(0o755)
        for name in OFTEN_MISSING:
            (programs / name).symlink_to(postgres_binaries() / name)

    def ask(self, program: str, command: str) -> str:
        """What a redis-cli says to a command on the stage's own Redis."""
        place = ["-u", self._valkey.url]
        path = str(self.folder / "bin" / program) if "/" not in program else program
        return subprocess.run([path, *place, *command.split()], text=True, capture_output=True, check=False).stdout

    async def play(self, page: Page) -> CommandOutput:
        """Run the page's blocks that need nothing special, in one shell. It is killed when it takes too long."""
        blocks = [block for block in page.blocks if block.language in {"sh", "sql"} and block.needs is None]
        folder = self.folder / page.name.replace("/", "-")
        folder.mkdir()
        for part in ("config", "systemd", "docker-compose.yml"):
            (folder / part).symlink_to(ROOT / part)
        await self._cleared()
        script = folder / "page.sh"
        own_daemon = any(OWN_DAEMON.search(block.text) for block in blocks)
        script.write_text(self._script(page, blocks, own_daemon=own_daemon))
        environment = self._environment(folder) if own_daemon else self._environment(folder) | self._given()
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
            async with asyncio.timeout(PATIENCE_S):
                out, _ = await shell.communicate()
        finally:
            if shell.returncode is None:
                os.killpg(shell.pid, signal.SIGKILL)
                await shell.wait()
        outputs = re.split(rf"^{MARK}\d+\n", out.decode(errors="replace"), flags=re.MULTILINE)
        return CommandOutput(shell.returncode or 0, outputs[1:])

    def _script(self, page: Page, blocks: Sequence[Block], *, own_daemon: bool) -> str:
        parts = [(PROGRAMS / "prologue.sh").read_text()]
        if not own_daemon:
            parts.append("flowstate-daemon migrate >/dev/null" if STOPPED in page.text else "flowstate-daemon run")
        for number, block in enumerate(blocks):
            parts.append(f"printf '\\n%s\\n' '{MARK}{number}'")
            text = self._placed(block.text)
            parts.append(text if block.language == "sh" else f"psql -X -q -v ON_ERROR_STOP=1 <<'SQL'\n{text}SQL")
        return "\n".join(parts) + "\n"

    def _placed(self, text: str) -> str:
        """The same text with our places in it."""
        text = re.sub(r"redis://(\w+:[\w-]+@)?(?:localhost|127\.0\.0\.1):6379", self._redis_place, text)
        text = re.sub(r"@(localhost|127\.0\.0\.1):5432/flowstate(\?schema=public)?", self._database_place(), text)
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}").replace("re_…", self._provider.api_key)

    def _redis_place(self, usual: re.Match[str]) -> str:
        return f"redis://{usual[1] or ''}127.0.0.1:{self._valkey.port}"

    def _database_place(self) -> str:
        return f"@/{DATABASE}?host={self._socket_folder}&schema=public"

    def _environment(self, folder: Path) -> dict[str, str]:
        """What every page has: programs, and places that differ from the usual ones."""
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "HANDBOOK": str(folder),
            "LANG": "C.UTF-8",
            "FLOWSTATE_HTTP_PORT": str(self.port),
            "RESEND_API_URL": self._provider.url,
            "PGHOST": self._socket_folder,
            "PGUSER": "postgres",
            "PGDATABASE": DATABASE,
        }

    def _given(self) -> dict[str, str]:
        """A complete deployment, for pages that take the daemon as given."""
        return {
            "REDIS_URL": self._valkey.url,
            "DATABASE_URL": f"postgresql://postgres{self._database_place()}",
            "RESEND_FROM_EMAIL": "FlowState <hello@example.com>",
            "RESEND_API_KEY": self._provider.api_key,
            "FRONTEND_URL": "https://app.example.com",
            "FLOWSTATE_HTTP_PUBLIC_URL": "https://mail.example.com",
            "FLOWSTATE_HTTP_LINK_SECRET": "l" * 32,
            "FLOWSTATE_HTTP_API_TOKEN": "t" * 32,
            "FLOWSTATE_RESEND_WEBHOOK_SECRET": "whsec_" + "c2VjcmV0" * 4,
            "FLOWSTATE_QUEUE_INSTANCE_ID": "mail-1",
        }

    async def _cleared(self) -> None:
        """A fresh database with sample people, and a queue with the jobs that pages speak of."""
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
    """As Bull leaves them: job 42 has failed, 43 and 44 wait for tomorrow; the next one will be 45."""
    seconds, _ = await redis.time()
    now = seconds * 1000
    data = {"type": "welcome", "to": "grace@example.org", "context": {"name": "Grace"}}
    job = {"name": "welcome", "data": json.dumps(data), "opts": json.dumps({"attempts": 3}), "timestamp": now}
    reason = "Resend: Invalid `to` field. (422 validation_error)"
    failed = {**job, "failedReason": reason, "attemptsMade": 3, "finishedOn": now, "stacktrace": "[]", "delay": 0}
    await redis.hset("bull:email:42", mapping={**failed, "priority": 5})
    await redis.zadd("bull:email:failed", {"42": now})
    for number in ("43", "44"):
        delayed = {**job, "opts": json.dumps({"attempts": 3, "delay": DAY_MS}), "delay": DAY_MS, "priority": 0}
        await redis.hset(f"bull:email:{number}", mapping=delayed)
        await redis.zadd("bull:email:delayed", {number: (now + DAY_MS) * 4096 + int(number)})
    await redis.set("bull:email:id", 44)

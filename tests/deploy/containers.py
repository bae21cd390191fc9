"""Runs containers through podman.sh: start, execute commands inside, stop, read the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from tests.support.waiting import eventually

HERE = Path(__file__).parent
PODMAN = HERE / "podman.sh"
IMAGE = "localhost/flowstate-daemon:test"
LOCKED_DOWN = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
TIMEOUT_S = 60.0


async def run_command(
    *command: str | Path,
    within_s: float = TIMEOUT_S,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a program."""
    # Files, not pipes: what a command leaves running, such as a container's monitor, would keep a pipe open.
    with TemporaryFile() as output, TemporaryFile() as stderr:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=stderr,
            cwd=folder,
            env=environment,
        )
        try:
            async with asyncio.timeout(within_s):
                code = await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            stderr.seek(0)
            raise AssertionError(f"{command[0]}: not ended after {within_s} s\n{stderr.read().decode()}") from None
        output.seek(0)
        stderr.seek(0)
        return code, output.read().decode(), stderr.read().decode()


async def podman(*text: str, within_s: float = TIMEOUT_S) -> str:
    """The output of a podman command, which must succeed."""
    code, output, stderr = await run_command(PODMAN, *text, within_s=within_s)
    assert code == 0, f"podman {' '.join(text)}: {stderr or output}"
    return output.strip()


class Container:
    """One container, which is removed at the end of its block."""

    def __init__(self, name: str = "") -> None:
        self.name = name or f"flowstate-test-{uuid4().hex[:8]}"

    async def start(self, *text: str, environment: Mapping[str, str], options: tuple[str, ...] = LOCKED_DOWN) -> None:
        """Start the image detached, on the network of the host, where the stores of the tests listen on loopback."""
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        await podman("run", "--detach", "--name", self.name, "--network=host", *options, *variables, IMAGE, *text)

    async def run(self, *text: str) -> tuple[int, str]:
        """Run a command inside; its exit code and output."""
        code, output, _ = await run_command(PODMAN, "exec", self.name, *text)
        return code, output

    async def python(self, script: str) -> str:
        """Run a Python script inside; its output."""
        code, output = await self.run("python", "-c", script)
        assert code == 0, output
        return output.strip()

    async def healthy(self) -> bool:
        """The result of the image's health check, run once as a container engine would."""
        return (await run_command(PODMAN, "healthcheck", "run", self.name))[0] == 0

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return (await self.run("flowstate-daemon", "health", "--ready"))[0] == 0

        try:
            await eventually(is_ready, "ready", within_s=TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.log()}") from None

    async def stop(self, *, grace_s: int) -> int:
        """Like `docker stop`: SIGTERM, and SIGKILL after the grace period. The exit code."""
        await podman("stop", "--time", str(grace_s), self.name, within_s=grace_s + TIMEOUT_S)
        return await self.exit_code()

    async def exit_code(self) -> int:
        """Wait until it has ended; the exit code."""
        return int(await podman("wait", self.name))

    async def log(self) -> str:
        code, output, stderr = await run_command(PODMAN, "logs", self.name)
        return output + stderr if code == 0 else ""

    async def facts(self) -> dict[str, Any]:
        (found,) = json.loads(await podman("inspect", self.name))
        return dict(found)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_command(PODMAN, "rm", "--force", "--volumes", "--time=0", self.name)

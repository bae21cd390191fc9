"""Containers as the tests of this folder see them, by way of podman.sh: run, look inside, stop, read the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from tests.support.waiting import eventually

HERE = Path(__file__).parent
PODMAN = HERE / "podman.sh"
IMAGE = "localhost/flowstate-daemon:test"
LOCKED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
PATIENCE_S = 60.0


async def called(
    *text: str | Path,
    within_s: float = PATIENCE_S,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Exit code, output and complaints of a program."""
    process = await asyncio.create_subprocess_exec(
        *map(str, text),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=environment,
    )
    try:
        async with asyncio.timeout(within_s):
            said, complained = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


async def podman(*text: str, within_s: float = PATIENCE_S) -> str:
    """What podman answers; fails with its complaints."""
    code, said, complained = await called(PODMAN, *text, within_s=within_s)
    assert code == 0, f"podman {' '.join(text)}: {complained or said}"
    return said.strip()


class Container:
    """One container, gone at the end of its block whatever happens in it."""

    def __init__(self, name: str = "") -> None:
        self.name = name or f"flowstate-test-{uuid4().hex[:8]}"

    async def start(self, *text: str, environment: Mapping[str, str], options: tuple[str, ...] = LOCKED) -> None:
        """Start the image detached, on the host's network: the test's stores are on its loopback."""
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        await podman("run", "--detach", "--name", self.name, "--network=host", *options, *variables, IMAGE, *text)

    async def run(self, *text: str) -> tuple[int, str]:
        """A command inside: its exit code and output."""
        code, said, _ = await called(PODMAN, "exec", self.name, *text)
        return code, said

    async def python(self, script: str) -> str:
        """What a few lines of Python find inside."""
        code, said = await self.run("python", "-c", script)
        assert code == 0, said
        return said.strip()

    async def healthy(self) -> bool:
        """The image's own health check, as an engine's timer would run it."""
        return (await called(PODMAN, "healthcheck", "run", self.name))[0] == 0

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return (await self.run("flowstate-daemon", "health", "--ready"))[0] == 0

        try:
            await eventually(is_ready, "ready", within_s=PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.log()}") from None

    async def stop(self, *, grace_s: int) -> int:
        """As `docker stop`: SIGTERM, after the grace SIGKILL. The exit code."""
        await podman("stop", "--time", str(grace_s), self.name, within_s=grace_s + PATIENCE_S)
        return await self.exit_code()

    async def exit_code(self) -> int:
        """The exit code, once it has ended."""
        return int(await podman("wait", self.name))

    async def log(self) -> str:
        code, said, complained = await called(PODMAN, "logs", self.name)
        return said + complained if code == 0 else ""

    async def facts(self) -> dict[str, Any]:
        (found,) = json.loads(await podman("inspect", self.name))
        return dict(found)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await called(PODMAN, "rm", "--force", "--volumes", "--time=0", self.name)

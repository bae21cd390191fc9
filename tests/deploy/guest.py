"""A temporary Debian with a booted systemd, in systemd-nspawn, for tests of the units. Needs root and Debian.

The base is created once in the cache folder (debian.sh); each boot writes to memory only and leaves nothing behind. The
guest shares the network, so it can reach stores and fakes that listen on this machine's loopback.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.containers import HERE, run_command

PACKAGES = "systemd,systemd-sysv,dbus,procps,make,python3,python3-venv"
BASE = f"""
. {HERE}/debian.sh
need systemd-container
debian guest {PACKAGES}
echo "$LAB/guest"
"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAKE_S = 600.0
BOOT_S = 60.0
SHUTDOWN_S = 30.0


async def provide_base() -> Path:
    """The cached base, created if it does not exist: a minute, 350 MB."""
    code, output, stderr = await run_command("bash", "-c", BASE, within_s=MAKE_S)
    assert code == 0, stderr
    return Path(output.strip())


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit code and output (both streams) of a command in the guest."""

    code: int
    output: str


class NspawnGuest:
    """One boot. `binds` maps folders of this machine, which the guest may read, to their paths in it."""

    def __init__(self, base: Path, folder: Path, binds: Mapping[Path, str]) -> None:
        self._base = base
        self._console = folder / "console.log"
        self._name = f"flowstate-test-{os.getpid()}"
        self._binds = binds
        self._nspawn: asyncio.subprocess.Process | None = None
        self._leader = 0

    async def boot(self) -> None:
        """Start the guest and wait until its systemd is running."""
        command = [
            "systemd-nspawn", "--quiet", "--boot", f"--directory={self._base}", "--volatile=overlay",
            f"--machine={self._name}", "--console=read-only", "--register=no",
            *(f"--bind-ro={own}:{other}" for own, other in self._binds.items()),
        ]  # fmt: skip
        groups = [] if Path("/run/systemd/system").exists() else self._cgroups()
        if groups:
            command.append("--keep-unit")  # without systemd on this machine there is no unit for it
        for group in groups:
            group.mkdir(exist_ok=True)
        enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        # The guest shuts down when this process ends, also after SIGKILL.
        bound = ["setpriv", "--pdeathsig=TERM", "/bin/sh", "-c", f'{enter}exec "$@"', "sh"]
        with self._console.open("wb") as console:
            self._nspawn = await asyncio.create_subprocess_exec(
                *bound, *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        try:
            await self._until_up()
        except AssertionError:
            await self.power_off()
            raise

    async def _until_up(self) -> None:
        assert self._nspawn is not None
        give_up_at = time.monotonic() + BOOT_S
        while not await self._running():
            if self._nspawn.returncode is not None or time.monotonic() > give_up_at:
                raise AssertionError(f"the guest did not come up:\n{self._console.read_text(errors='replace')}")
            await asyncio.sleep(0.1)

    def _cgroups(self) -> list[Path]:
        """An own control group in each hierarchy that systemd uses, so that boots do not share one."""
        root = Path("/sys/fs/cgroup")
        roots = [root / "unified", root / "systemd"] if (root / "unified").exists() else [root]
        return [place / self._name for place in roots if place.exists()]

    async def _running(self) -> bool:
        assert self._nspawn is not None
        try:
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        except FileNotFoundError:
            return False
        if not children:
            return False
        self._leader = int(children[0])
        done = await self.run("systemctl", "is-system-running")
        return done.output.strip() in {"running", "degraded"}

    async def run(self, *command: str, stdin: str = "", within_s: float = 60.0) -> CommandResult:
        """Run a command as the guest's root."""
        inside = ["nsenter", "-t", str(self._leader), "-a", "env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8"]
        process = await asyncio.create_subprocess_exec(
            *inside, *command,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(within_s):
                output, _ = await process.communicate(stdin.encode())
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {' '.join(command)}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return CommandResult(process.returncode, output.decode(errors="replace"))

    async def check_call(self, *command: str, stdin: str = "", within_s: float = 60.0) -> str:
        """Run a command that must succeed; its output."""
        done = await self.run(*command, stdin=stdin, within_s=within_s)
        assert done.code == 0, f"{' '.join(command)}: exit {done.code}\n{done.output}"
        return done.output

    async def write(self, path: str, text: str, mode: str = "0600") -> None:
        """Write a file in the guest, and the folders above it."""
        # The standard input of a child of uvloop is a socket, which cannot be opened as /dev/stdin.
        script = 'install -D -m "$1" /dev/null "$2" && cat > "$2"'
        await self.check_call("sh", "-c", script, "write", mode, path, stdin=text)

    async def power_off(self) -> None:
        """Shut down, and kill a guest that does not end in time."""
        if self._nspawn is not None and self._nspawn.returncode is None:
            self._nspawn.terminate()  # nspawn passes it on as an orderly shutdown
            try:
                async with asyncio.timeout(SHUTDOWN_S):
                    await self._nspawn.wait()
            except TimeoutError:
                os.killpg(self._nspawn.pid, signal.SIGKILL)
                await self._nspawn.wait()
        for group in self._cgroups():
            for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                folder.rmdir()
            if group.exists():
                group.rmdir()

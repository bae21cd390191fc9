"""Installs the peers: npm packages beside this file, each Python peer into `.cache/bench/<name>`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.bench.peers import ENVIRONMENTS, HERE, Peer

CONSTRAINTS = HERE / "peers.txt"
INSTALL_S = 300
NPM_STAMP = HERE / "node_modules" / ".package-lock.json"


class InstallError(Exception):
    """A peer could not be installed; the text is for the report."""


def install(peer: Peer) -> None:
    """Install a peer unless it is installed. Raises InstallError."""
    if peer.kind == "node":
        _install_node()
    elif peer.kind == "python":
        _install_python(peer)


def _install_node() -> None:
    lock = HERE / "package-lock.json"
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise InstallError("node and npm are not on the PATH")
    if NPM_STAMP.exists() and NPM_STAMP.stat().st_mtime >= lock.stat().st_mtime:
        return
    _run(["npm", "ci"])


def _install_python(peer: Peer) -> None:
    folder = ENVIRONMENTS / peer.name
    stamp = folder / ".installed"
    wanted = "\n".join((*peer.requirements, CONSTRAINTS.read_text()))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    venv.EnvBuilder(clear=True, with_pip=False, symlinks=True).create(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(peer.python), "install", "--quiet", "--only-binary", ":all:"]
    _run([*pip, "--disable-pip-version-check", "-c", str(CONSTRAINTS), *peer.requirements])
    # Handlers render emails with the daemon's own code. Its libraries come last, after the peer's own versions.
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "daemon.pth").write_text(sysconfig.get_path("purelib") + "\n")
    stamp.write_text(wanted)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise InstallError(f"{command[0]} took more than {INSTALL_S} s") from None
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "npm error"))]
        raise InstallError("; ".join(last)[:500] or f"{Path(command[0]).name} failed")


def version(peer: Peer) -> str:
    """The installed version of a peer."""
    if peer.kind == "node":
        command = ["node", "-p", f"require('./node_modules/{peer.name}/package.json').version"]
    else:
        name = "flowstate-daemon" if peer.kind == "ours" else peer.name
        python = sys.executable if peer.kind == "ours" else str(peer.python)
        command = [python, "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]
    done = subprocess.run(command, cwd=HERE, env=os.environ, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or "unknown"

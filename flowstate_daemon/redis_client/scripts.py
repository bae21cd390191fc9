"""The Lua files of this room: found, checked, joined with their includes, and run by digest.

`Scripts` knows names and shapes, not meanings; return codes become errors in the verbs of `bull` and `operator`.
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
PACKAGES = ("queue", "sending", "shadow")  # shadow/ may be deleted after a migration
KEY_LINE = re.compile(r"^--\s+KEYS\[(\d+)\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One transition: its Lua text, its SHA-1 (which is Redis's name for it) and its number of fixed keys."""

    name: str
    text: str
    sha: str
    fixed_keys: int


@cache
def load_scripts() -> Mapping[str, Script]:
    """All scripts by file name without its ending, from the `lua/` folder of each package that has one."""
    folders = [folder for name in PACKAGES if (folder := files(ROOT) / name / "lua").is_dir()]
    parts = {name: text for folder in folders for name, text in _texts(folder / "includes")}
    found = {}
    for name, source in (script for folder in folders for script in _texts(folder)):
        text = INCLUDE.sub(lambda match: parts[match[1]], source)
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        found[name] = Script(name, text, sha, len(KEY_LINE.findall(source)))
    return found


def _texts(folder: Traversable) -> Iterator[tuple[str, str]]:
    if not folder.is_dir():
        return
    for part in folder.iterdir():
        if part.name.endswith(".lua"):
            yield part.name[:-4], part.read_text(encoding="utf-8")


class Scripts:
    """Runs scripts by digest and loads what the server has forgotten (restart, fail-over, SCRIPT FLUSH)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def run(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | float]) -> Any:
        """Run `lua/<name>.lua`. Raises Outage; anything else that Redis answers is a bug of ours."""
        script = load_scripts()[name]
        try:
            return await self._connection.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except refused.NoScriptError:
            return await self._connection.execute("EVAL", script.text, len(keys), *keys, *args)

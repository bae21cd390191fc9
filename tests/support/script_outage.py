"""Makes one script of the request store fail for some jobs, so that a test decides which of two runs is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.redis_client.scripts import load_scripts
from tests.support.dispatcher_harness import DispatcherHarness


class ScriptOutage:
    """A script does not run for jobs that match `blocks`, as while Redis is unreachable; `tries` counts these calls."""

    def __init__(self, harness: DispatcherHarness, script: str) -> None:
        self.blocks: Callable[[set[str]], bool] = lambda _: False
        self.tries = 0
        self._script = load_scripts()[script]
        self._prefix = harness.keys.base
        self._execute = harness.connection.execute

    async def execute(self, *command: Any) -> Any:
        if command[1] in (self._script.sha, self._script.text):
            # Two keys for each job: its hash, and its lock.
            locks = [name for name in command[3 : 3 + command[2]] if name.endswith(":lock")]
            if self.blocks({name.removeprefix(self._prefix).removesuffix(":lock") for name in locks}):
                self.tries += 1
                raise StoreUnavailableError("Redis is unreachable")
        return await self._execute(*command)

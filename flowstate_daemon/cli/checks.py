"""What `check` looks at, in the order of a mail's way; all at once, so that one silent store does not hide the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from flowstate_daemon.base.config import Config
from flowstate_daemon.cli.check_postgres import examine_postgres
from flowstate_daemon.cli.check_provider import examine_provider
from flowstate_daemon.cli.check_redis import examine_redis
from flowstate_daemon.cli.check_surroundings import examine_surroundings
from flowstate_daemon.cli.verdict import Grade, Verdict, unreachable

WITHIN_S = 15.0
FAILED, UNREACHABLE, CONFIG = 1, 69, 78

Look = Callable[[Config], Awaitable[list[Verdict]]]
PARTS: dict[str, Look] = {
    "surroundings": examine_surroundings,
    "redis": examine_redis,
    "postgres": examine_postgres,
    "provider": examine_provider,
}


async def examine(
    config: Config, *, within_s: float = WITHIN_S, done: Callable[[int], None] = lambda _: None
) -> list[Verdict]:
    """Look at everything the daemon depends on; `done` hears how many parts have been looked at."""
    finished = 0

    async def part(name: str, look: Look) -> list[Verdict]:
        nonlocal finished
        try:
            async with asyncio.timeout(within_s):
                return await look(config)
        except TimeoutError:
            return [unreachable(name, f"no answer within {within_s:g} s", "look at its load and at the network")]
        finally:
            finished += 1
            done(finished)

    found = await asyncio.gather(*(part(name, look) for name, look in PARTS.items()))
    return [verdict for verdicts in found for verdict in verdicts]


def exit_code(verdicts: list[Verdict]) -> int:
    """0 unless something fails: 78 when `run` would refuse the configuration, 69 when a store is away, else 1."""
    failed = [verdict for verdict in verdicts if verdict.grade is Grade.FAIL]
    if any(verdict.misconfigured for verdict in failed):
        return CONFIG
    if any(verdict.unreachable for verdict in failed):
        return UNREACHABLE
    return FAILED if failed else 0

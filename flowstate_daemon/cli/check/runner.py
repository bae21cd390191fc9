"""What `check` looks at, in the order of a mail's way; all at once, so that one silent store does not hide the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from flowstate_daemon.cli.check.host import check_host
from flowstate_daemon.cli.check.postgres import check_postgres
from flowstate_daemon.cli.check.provider import check_provider
from flowstate_daemon.cli.check.redis import check_redis
from flowstate_daemon.cli.check.result import CheckResult, Level, unreachable
from flowstate_daemon.config.loader import Config

TIMEOUT_S = 15.0
FAILED, UNREACHABLE, CONFIG = 1, 69, 78

Check = Callable[[Config], Awaitable[list[CheckResult]]]
CHECKS: dict[str, Check] = {
    "surroundings": check_host,
    "redis": check_redis,
    "postgres": check_postgres,
    "provider": check_provider,
}


async def run_checks(
    config: Config, *, within_s: float = TIMEOUT_S, done: Callable[[int], None] = lambda _: None
) -> list[CheckResult]:
    """Look at everything the daemon depends on; `done` hears how many parts have been looked at."""
    finished = 0

    async def part(name: str, look: Check) -> list[CheckResult]:
        nonlocal finished
        try:
            async with asyncio.timeout(within_s):
                return await look(config)
        except TimeoutError:
            return [unreachable(name, f"no answer within {within_s:g} s", "look at its load and at the network")]
        finally:
            finished += 1
            done(finished)

    found = await asyncio.gather(*(part(name, look) for name, look in CHECKS.items()))
    return [result for results in found for result in results]


def exit_code(results: list[CheckResult]) -> int:
    """0 unless something fails: 78 when `run` would refuse the configuration, 69 when a store is away, else 1."""
    failed = [result for result in results if result.grade is Level.FAIL]
    if any(result.misconfigured for result in failed):
        return CONFIG
    if any(result.unreachable for result in failed):
        return UNREACHABLE
    return FAILED if failed else 0

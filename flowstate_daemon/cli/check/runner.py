"""Runs all checks concurrently, so that one server that does not respond cannot hide the results of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.cli.check.host import check_host
from flowstate_daemon.cli.check.mail import check_mail
from flowstate_daemon.cli.check.postgres import check_postgres
from flowstate_daemon.cli.check.provider import check_provider
from flowstate_daemon.cli.check.redis import check_redis
from flowstate_daemon.cli.check.result import CheckResult, Level, fail, unreachable
from flowstate_daemon.config.loader import Config

TIMEOUT_S = 15.0
FAILED, UNREACHABLE, CONFIG = 1, 69, 78

Check = Callable[[Config], Awaitable[list[CheckResult]]]
CHECKS: dict[str, Check] = {
    "host": check_host,
    "redis": check_redis,
    "postgres": check_postgres,
    "provider": check_provider,
    "emails": check_mail,
}


async def run_checks(
    config: Config, *, within_s: float = TIMEOUT_S, done: Callable[[int], None] = lambda _: None
) -> list[CheckResult]:
    """Run all checks. `done` is called with the number of finished ones."""
    finished = 0

    async def run_one(name: str, check: Check) -> list[CheckResult]:
        nonlocal finished
        try:
            async with asyncio.timeout(within_s):
                return await check(config)
        except TimeoutError:
            return [unreachable(name, f"no response within {within_s:g} s", "check its load and the network")]
        except Exception as error:  # noqa: BLE001 - one failed check must not hide the results of the others
            finding = error.reason if isinstance(error, FlowstateError) else f"{type(error).__name__}: {error}"
            return [fail(name, f"the check failed: {finding}", "if this is the right server, please report this bug")]
        finally:
            finished += 1
            done(finished)

    groups = await asyncio.gather(*(run_one(name, check) for name, check in CHECKS.items()))
    return [result for group in groups for result in group]


def exit_code(results: list[CheckResult]) -> int:
    """0 unless a check failed: 78 if `run` would reject the configuration, 69 if a server is unreachable, else 1."""
    failed = [result for result in results if result.level is Level.FAIL]
    if any(result.misconfigured for result in failed):
        return CONFIG
    if any(result.unreachable for result in failed):
        return UNREACHABLE
    return FAILED if failed else 0

"""The whole of `check`: its end in time, and its exit code."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.cli.check import runner
from flowstate_daemon.cli.check.result import CheckResult, Level, fail, ok, unreachable, warn
from flowstate_daemon.cli.check.runner import exit_code, run_checks
from flowstate_daemon.config.loader import Config, load

WRONG = CheckResult("redis cluster", Level.FAIL, "spread", misconfigured=True)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([ok("a", "b"), warn("a", "b", "c")], 0),
        ([fail("a", "b", "c")], 1),
        ([fail("a", "b", "c"), unreachable("a", "b")], 69),
        ([unreachable("a", "b"), WRONG], 78),
    ],
)
def test_the_worst_finding_is_the_exit_code(results: list[CheckResult], code: int) -> None:
    """Warnings are no failure."""
    assert exit_code(results) == code


async def test_a_part_that_hangs_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line says that there was no answer; all others are there, in their order, and progress was told."""

    async def hang(_config: Config) -> list[CheckResult]:
        await asyncio.Event().wait()
        return []

    async def fine(_config: Config) -> list[CheckResult]:
        return [ok("fine", "")]

    monkeypatch.setattr(runner, "CHECKS", {"first": hang, "second": fine})
    output: list[int] = []
    found = await run_checks(load({}), within_s=0.02, done=output.append)
    assert [(result.name, result.unreachable) for result in found] == [("first", True), ("fine", False)]
    assert output == [1, 2]

"""`check` as a whole: time-outs and exit codes."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.cli.check import runner
from flowstate_daemon.cli.check.result import CheckResult, Level, fail, ok, unreachable, warn
from flowstate_daemon.cli.check.runner import exit_code, run_checks
from flowstate_daemon.config.loader import Config, load

MISCONFIGURED = CheckResult("redis cluster", Level.FAIL, "spread", misconfigured=True)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([ok("a", "b"), warn("a", "b", "c")], 0),
        ([fail("a", "b", "c")], 1),
        ([fail("a", "b", "c"), unreachable("a", "b")], 69),
        ([unreachable("a", "b"), MISCONFIGURED], 78),
    ],
)
def test_exit_code_of_results(results: list[CheckResult], code: int) -> None:
    """Misconfiguration before unreachable before other failures; warnings are not failures."""
    assert exit_code(results) == code


async def test_results_of_other_checks_remain_when_one_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that hangs is unreachable; the others keep their order, and progress is reported."""

    async def hang(_config: Config) -> list[CheckResult]:
        await asyncio.Event().wait()
        return []

    async def pass_(_config: Config) -> list[CheckResult]:
        return [ok("second", "")]

    monkeypatch.setattr(runner, "CHECKS", {"first": hang, "second": pass_})
    progress: list[int] = []
    results = await run_checks(load({}), within_s=0.02, done=progress.append)
    assert [(result.name, result.unreachable) for result in results] == [("first", True), ("second", False)]
    assert progress == [1, 2]

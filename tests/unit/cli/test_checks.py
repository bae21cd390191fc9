"""The whole of `check`: its end in time, and its exit code."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.config import Config, load
from flowstate_daemon.cli import checks
from flowstate_daemon.cli.checks import examine, exit_code
from flowstate_daemon.cli.verdict import Grade, Verdict, fail, ok, unreachable, warn

WRONG = Verdict("redis cluster", Grade.FAIL, "spread", misconfigured=True)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([ok("a", "b"), warn("a", "b", "c")], 0),
        ([fail("a", "b", "c")], 1),
        ([fail("a", "b", "c"), unreachable("a", "b")], 69),
        ([unreachable("a", "b"), WRONG], 78),
    ],
)
def test_the_worst_finding_is_the_exit_code(verdicts: list[Verdict], code: int) -> None:
    """Warnings are no failure."""
    assert exit_code(verdicts) == code


async def test_a_part_that_hangs_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line says that there was no answer; all others are there, in their order, and progress was told."""

    async def hang(_config: Config) -> list[Verdict]:
        await asyncio.Event().wait()
        return []

    async def fine(_config: Config) -> list[Verdict]:
        return [ok("fine", "")]

    monkeypatch.setattr(checks, "PARTS", {"first": hang, "second": fine})
    told: list[int] = []
    found = await examine(load({}), within_s=0.02, done=told.append)
    assert [(verdict.subject, verdict.unreachable) for verdict in found] == [("first", True), ("fine", False)]
    assert told == [1, 2]

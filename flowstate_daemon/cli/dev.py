"""The command `dev`: a complete local environment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import webbrowser
from pathlib import Path

import click

from flowstate_daemon.base import logs
from flowstate_daemon.cli.context import run_async
from flowstate_daemon.cli.output import json_option, print_json, print_table
from flowstate_daemon.dev.environment import HTTP_PORT, DevEnvironment, SampleResult, ScheduleOutcome, lock_folder


@click.command()
@click.option("--once", is_flag=True, help="Send one email of each kind and all that is due, print a summary, exit.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=".dev", show_default=True, help="For data and outbox."
)
@click.option("--open/--no-open", "open_browser", default=True, help="Whether to open the pages in a browser.")
@json_option
def dev(folder: Path, *, once: bool, open_browser: bool, as_json: bool) -> int:
    """Run a complete local environment.

    It opens the pages of the daemon in a browser. It has its own Valkey and Postgres and sample users, and writes
    emails to a folder. It needs only what `make dev` or `pip install '.[dev]'` installs. Without --once it runs until
    Ctrl-C.
    """

    async def use_environment(
        environment: DevEnvironment, pages: str | None
    ) -> tuple[list[SampleResult], list[ScheduleOutcome]]:
        async with environment:
            environment.start()
            if pages is not None:
                await environment.wait_until_listening()
                open_page(pages, wanted=open_browser)
            results = await environment.until_stopped(send_everything(environment))
            if results is None:
                raise click.Abort
            print_sample_results(environment, *results, as_json=as_json)
            if not once:
                print_next_steps(environment)
                await environment.wait_until_stopped()
        return results

    async def work() -> int:
        logs.write_in_background()
        with lock_folder(folder):
            environment = DevEnvironment(folder, os.environ)
            pages = environment.login_url if environment.http.http.enabled and not once else None
            if pages is not None:
                click.echo(f"pages   {pages}")  # before anything is logged: the first line
            logs.configure("warning" if once else "info", colors=environment.colors)
            samples, outcomes = await use_environment(environment, pages)
        failed = any(mail.state != "completed" for mail in samples) or any(item.state == "failed" for item in outcomes)
        return 1 if failed else 0

    return run_async(work())


def open_page(url: str, *, wanted: bool) -> None:
    """Open a page in a browser where there is a screen, unless the user has declined."""
    has_screen = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if wanted and has_screen and sys.stdout.isatty():
        webbrowser.open(url)


async def send_everything(environment: DevEnvironment) -> tuple[list[SampleResult], list[ScheduleOutcome]]:
    """Send one email of each kind, then everything that is due."""
    return await environment.send_samples(), await environment.run_schedules()


def print_sample_results(
    environment: DevEnvironment, samples: list[SampleResult], outcomes: list[ScheduleOutcome], *, as_json: bool
) -> None:
    """Print the result of one email of each kind and of everything that was due, and where the emails are."""
    users, outbox = environment.user_count, environment.outbox
    if as_json:
        print_json({"users": users, "outbox": str(outbox), "mails": samples, "schedules": outcomes})
        return
    rows = [(mail.kind, mail.state, mail.file or mail.reason) for mail in samples]
    print_table(f"One email of each kind, in {outbox}:", ("kind", "state", "file"), rows)
    click.echo()
    due = [(outcome.kind, outcome.state, outcome.recipients, outcome.reason) for outcome in outcomes]
    print_table(f"Everything due for {users} sample users:", ("schedule", "state", "recipients", "reason"), due)


def print_next_steps(environment: DevEnvironment) -> None:
    """Print what to open and what to run while the environment is up."""
    url = environment.url
    redis_url = environment.config.redis.url.get_secret_value()
    command = program_name()
    click.echo(f"""
open    {url}/dashboard/, with the link in the first line of this output
        {url}/health/ready   {url}/metrics
        {environment.outbox}/*.eml, in any mail client
run     export {exported_variables(environment)}
        {command} status
        {command} check
        {command} queue status
        {command} enqueue welcome --to you@flowstate.example --context '{{"name": "You"}}' --wait 5
        {command} schedule list
        {command} schedule run task-reminder --dry-run --bodies
        {command} explain amelie@flowstate.example
        curl -H 'Authorization: Bearer {environment.api_token}' {url}/api/v1/schedules
        redis-cli -u {redis_url} LLEN {environment.daemon.components.keys("wait")}
users   {environment.user_count} in Postgres: psql '{environment.database_url}'
stop    Ctrl-C
""")


def exported_variables(environment: DevEnvironment) -> str:
    """The settings of this environment for commands in another shell; with them `check` has nothing to report."""
    config = environment.config
    variables = {
        "REDIS_URL": config.redis.url.get_secret_value(),
        "DATABASE_URL": environment.database_url,
        "FLOWSTATE_DELIVERY": "outbox",
        "FLOWSTATE_OUTBOX_FOLDER": str(environment.outbox),
        "RESEND_FROM_EMAIL": config.mail.from_address,
    }
    if (port := environment.http.http.port) != HTTP_PORT:
        variables["FLOWSTATE_HTTP_PORT"] = str(port)
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())


def program_name() -> str:
    """How to call this program from another shell: its name if it is on PATH, else its path."""
    program = Path(sys.argv[0])
    return program.name if shutil.which(program.name) else shlex.quote(str(program.resolve()))

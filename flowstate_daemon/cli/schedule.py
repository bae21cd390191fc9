"""Commands about schedules: `schedule list|run`. They use Postgres only; running daemons send what they plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from textwrap import indent
from typing import TypeVar

import asyncpg
import click
import msgspec

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError, InvalidDataError
from flowstate_daemon.base.time_zones import parse_instant
from flowstate_daemon.cli.context import load_config, operator_name
from flowstate_daemon.cli.database import format_datetime, record_reveal, with_database, with_suppressions
from flowstate_daemon.cli.filters import shown_address
from flowstate_daemon.cli.output import json_option, print_fields, print_json, print_table, sanitise
from flowstate_daemon.config.loader import Config
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.database.planning import Source
from flowstate_daemon.scheduler.manual_runs import (
    DryRunItem,
    InvalidRunRequestError,
    ManualRuns,
    Overview,
    RunRequest,
    RunResult,
)

T = TypeVar("T")

MAX_SHOWN_INSTANTS = 4
MAX_SHOWN_ZONES = 3
OFF = "FLOWSTATE_SCHEDULE_ENABLED is false: schedules are disabled"


@click.group()
def schedule() -> None:
    """List the schedules and run them manually.

    Their names are task-reminder, overdue-summary and focus-report.
    """


@schedule.command(name="list")
@json_option
@click.pass_obj
def list_(config_file: str | None, *, as_json: bool) -> None:
    """Show when each schedule is next due, and the result of its last run."""
    if not load_config(config_file).schedule.enabled:
        click.echo("[]" if as_json else f"{OFF}; `schedule run NAME --dry-run` still works")
        return
    overviews = with_scheduler(config_file, lambda manual_runs: manual_runs.overview())
    if as_json:
        print_json(overviews)
        return
    columns = ("schedule", "cron, local", "next (UTC), time zones", "last run (UTC)", "scheduled", "states")
    print_table(f"schedules: {len(overviews)}", columns, [overview_row(overview) for overview in overviews])


def overview_row(overview: Overview) -> tuple[object, ...]:
    """One schedule, with the next instants on a line each. Pure."""
    shown = overview.next[:MAX_SHOWN_INSTANTS]
    following = [f"{format_datetime(instant.at)} {format_zones(instant.zones)}" for instant in shown]
    if zones := sum(len(instant.zones) for instant in overview.next[MAX_SHOWN_INSTANTS:]):
        following.append(f"later: {zones} more zone{'s' if zones > 1 else ''}")
    head = (overview.name, overview.cron, "\n".join(following))
    last = overview.last
    if last is None:
        return (*head, "none in the last 31 days", "", "")
    first, latest = format_datetime(last.first_at), format_datetime(last.last_at)
    when = first if first == latest else f"{first} to {latest}"
    return (
        *head,
        f"{when} by {last.actor}" if last.actor else when,
        last.scheduled,
        describe_result(last.source, last.scheduled, last.states),
    )


def describe_result(source: Source, scheduled: int, states: Mapping[str, int]) -> str:
    """What became of the emails of a run. Pure."""
    if states:
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if scheduled:
        return f"{scheduled} scheduled"  # their rows have been deleted after their time
    # Whoever was planned for the date already is no new recipient.
    return "no new recipient was due" if source == "manual" else "no recipient was due"


def format_zones(zones: tuple[str, ...]) -> str:
    shown = ", ".join(zones[:MAX_SHOWN_ZONES])
    return shown if len(zones) <= MAX_SHOWN_ZONES else f"{shown} and {len(zones) - MAX_SHOWN_ZONES} more"


def parse_at(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """An instant in ISO 8601; without an offset it is UTC."""
    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise click.BadParameter("expected ISO 8601, such as 2026-03-02T08:00:00+01:00") from error


@schedule.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Write nothing; show who would get what, and why others would not.")
@click.option(
    "--at", callback=parse_at, metavar="INSTANT", help="Run for the local dates at this instant instead of now."
)
@click.option("--force", is_flag=True, help="Send again what was already sent, skipped or failed on those dates.")
@click.option("--to", "address", metavar="ADDRESS", help="With --dry-run: show only what this address would get.")
@click.option("--bodies", is_flag=True, help="With --dry-run: also show the emails.")
@click.option("--reveal", is_flag=True, help="With --dry-run: show whole addresses; this is recorded in the audit log.")
@json_option
@click.pass_obj
def run(  # noqa: PLR0913 - one parameter per option
    config_file: str | None,
    name: str,
    at: datetime | None,
    address: str | None,
    *,
    dry_run: bool,
    force: bool,
    bodies: bool,
    reveal: bool,
    as_json: bool,
) -> int:
    """Run the schedule NAME now.

    Each user's local date is the date now, or at --at, in the user's time zone. A user who already has an email of this
    schedule for that date does not get a second one without --force. Running daemons send the emails within seconds.

    \b
    Example:
      flowstate-daemon schedule run task-reminder --dry-run --at 2026-03-02T08:00:00Z
      flowstate-daemon schedule run task-reminder --dry-run --to ada@example.org --bodies
    """  # noqa: D301 - click needs the character \b itself: it keeps the line breaks of the paragraph
    if (bodies or reveal or address is not None) and not dry_run:
        raise click.UsageError("--to, --bodies and --reveal require --dry-run")
    to = "" if address is None else parse_recipient(address)
    if not dry_run and not load_config(config_file).schedule.enabled:
        raise ConfigError([f"{OFF}, so no daemon would send the emails; --dry-run still works"])

    async def work(manual_runs: ManualRuns) -> int:
        request = RunRequest(name, at or Clock().now(), force)
        if not dry_run:
            print_run_result(await manual_runs.run(request, actor=operator_name()), as_json=as_json)
            return 0
        items = shown_items(manual_runs, request, to, reveal=reveal)
        if as_json:
            return await stream_json(items, request, bodies=bodies)
        return await stream_lines(items, request, shown_address(to, reveal=reveal), bodies=bodies)

    if reveal:
        with_suppressions(config_file, lambda lists: record_reveal(lists, f"schedule run {name} --dry-run", 0))
    try:
        return with_scheduler(config_file, work)
    except InvalidRunRequestError as error:
        raise click.UsageError(error.reason) from error


def print_run_result(result: RunResult, *, as_json: bool) -> None:
    """Print what was scheduled."""
    if as_json:
        print_json(result)
        return
    names = ("found", "recipients", "scheduled", "reopened")
    print_fields(
        f"{result.name} for {format_datetime(result.at)} UTC:", {name: getattr(result, name) for name in names}
    )
    if result.scheduled or result.reopened:
        click.echo("running daemons send these within seconds; see: flowstate-daemon schedule list")
    elif result.recipients:
        click.echo("all of them were planned for that date already; --dry-run says what became of each")


def parse_recipient(text: str) -> str:
    """The address of `--to`. Raises click.UsageError."""
    try:
        return parse_address(text.strip())
    except InvalidDataError as error:
        raise click.UsageError("--to: expected an email address") from error


async def shown_items(
    manual_runs: ManualRuns, request: RunRequest, to: str, *, reveal: bool
) -> AsyncIterator[DryRunItem]:
    """The items of a dry run, with the addresses as they may be shown. With `to`, only those of this address."""
    async for item in manual_runs.dry_run(request, to):
        yield replace(item, to=shown_address(item.to, reveal=reveal))


async def stream_lines(items: AsyncIterator[DryRunItem], request: RunRequest, to: str, *, bodies: bool) -> int:
    """Print one line for each recipient as it arrives, then the totals; memory does not grow with the recipients.

    `to` is the only address of the run as it may be shown, or "".
    """
    sends, reasons = 0, Counter[str]()
    async for item in items:
        click.echo(dry_run_line(item))
        if item.mail is None:
            reasons[item.reason] += 1
            continue
        sends += 1
        if bodies:
            click.echo(indent(sanitise(item.mail.text), "    "))
    if to and not sends and not reasons:
        click.echo(f"nothing for {to} on that date: no account has the address, or there is nothing to write about")
    click.echo(f"{request.name}: {sends} would be sent, {sum(reasons.values())} would not; nothing was written")
    for reason, count in reasons.most_common():
        click.echo(f"  {count} x {reason}")
    return 0


def dry_run_line(item: DryRunItem) -> str:
    """One recipient on one line; control characters in user text are escaped. Pure."""
    decision = f"send  {item.mail.subject}" if item.mail else f"skip  {item.reason}"
    to = f" {item.to}" if item.to else ""  # masked addresses may be alike, ids are not
    task = f" {item.task_id}" if item.task_id else ""
    return sanitise(f"{item.local_date} {item.zone:<20} {item.user_id}{to}{task}: {decision}").replace("\n", " ")


async def stream_json(items: AsyncIterator[DryRunItem], request: RunRequest, *, bodies: bool) -> int:
    """Write one JSON document as items arrive. After an outage the document is still valid, with a field `error`."""
    counts = {"sends": 0, "skips": 0}
    head = msgspec.json.encode({"name": request.name, "at": request.at, "force": request.force, "dry_run": True})
    opened = False
    try:
        async for item in items:
            click.echo(b",\n" if opened else head[:-1] + b',"recipients":[\n', nl=False)
            opened = True
            click.echo(msgspec.json.encode(item.to_dict(bodies=bodies)), nl=False)
            counts["sends" if item.would_send else "skips"] += 1
    except FlowstateError as error:
        if not opened:
            raise
        click.echo(b"\n]," + msgspec.json.encode({**counts, "error": error.reason})[1:])
        click.echo(f"flowstate-daemon: {error.reason}", err=True)
        return 1
    if not opened:
        click.echo(head[:-1] + b',"recipients":[', nl=False)
    click.echo(b"]," + msgspec.json.encode(counts)[1:])
    return 0


def with_scheduler(config_file: str | None, work: Callable[[ManualRuns], Awaitable[T]]) -> T:
    """Do the work with the configured schedules.

    Raises ConfigError without DATABASE_URL, and StoreUnavailableError.
    """

    async def with_pool(pool: asyncpg.Pool, config: Config) -> T:
        return await work(build_manual_runs(config, pool, Clock()))

    return with_database(config_file, with_pool)

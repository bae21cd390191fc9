"""Commands about the calendar: `schedule list|run`. They need Postgres only; running daemons send what they plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from textwrap import indent
from typing import TypeVar

import asyncpg
import click
import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError
from flowstate_daemon.cli.context import load_config
from flowstate_daemon.cli.database import format_datetime, with_database
from flowstate_daemon.cli.output import json_option, print_fields, print_json, print_table, sanitise
from flowstate_daemon.daemon.bootstrap import build_manual_runs
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
OFF = "FLOWSTATE_SCHEDULE_ENABLED: is false, the calendar is off"


@click.group()
def schedule() -> None:
    """Look at the calendar's mails and run them by hand.

    Their names are task-reminder, overdue-summary and focus-report.
    """


@schedule.command(name="list")
@json_option
@click.pass_obj
def list_(config_file: str | None, *, as_json: bool) -> None:
    """Tell when each schedule is next due, and how its last run went."""
    if not load_config(config_file).schedule.enabled:
        click.echo("[]" if as_json else f"{OFF}; `schedule run NAME --dry-run` works all the same")
        return
    found = with_scheduler(config_file, lambda by_hand: by_hand.overview())
    if as_json:
        print_json(found)
        return
    columns = ("schedule", "cron, local", "next (UTC)", "where", "last run (UTC)", "scheduled", "states")
    print_table(f"schedules: {len(found)}", columns, [row for one in found for row in overview_rows(one)])


def overview_rows(one: Overview) -> Iterator[tuple[object, ...]]:
    """One line for each of the next instants; the first carries the last run. Pure."""
    last = one.last
    output: tuple[object, ...] = ("", "", "")
    if last is not None:
        states = ", ".join(f"{count} {state}" for state, count in sorted(last.states.items()))
        output = (f"{format_datetime(last.first_at)} to {format_datetime(last.last_at)}", last.scheduled, states)
    head: tuple[object, ...] = (one.name, one.cron)
    for following in one.next[:MAX_SHOWN_INSTANTS]:
        yield *head, format_datetime(following.at), format_zones(following.zones), *output
        head, output = ("", ""), ("", "", "")
    if len(one.next) > MAX_SHOWN_INSTANTS:
        zones = sum(len(following.zones) for following in one.next[MAX_SHOWN_INSTANTS:])
        yield *head, "later", f"{zones} more zone{'s' if zones > 1 else ''}", *output


def format_zones(zones: tuple[str, ...]) -> str:
    shown = ", ".join(zones[:MAX_SHOWN_ZONES])
    return shown if len(zones) <= MAX_SHOWN_ZONES else f"{shown} and {len(zones) - MAX_SHOWN_ZONES} more"


def parse_instant(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """An instant in ISO 8601; without an offset it is UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter("expected ISO 8601, such as 2026-03-02T08:00:00+01:00") from error


@schedule.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Write nothing; tell who would get what, and why others would not.")
@click.option(
    "--at", callback=parse_instant, metavar="INSTANT", help="Run for the local dates of that instant, not now."
)
@click.option("--force", is_flag=True, help="Also send once more what was sent, skipped or failed on those dates.")
@click.option("--bodies", is_flag=True, help="With --dry-run: the mails themselves as well.")
@json_option
@click.pass_obj
def run(  # noqa: PLR0913 - one parameter an option
    config_file: str | None, name: str, at: datetime | None, *, dry_run: bool, force: bool, bodies: bool, as_json: bool
) -> int:
    """Run the schedule NAME now.

    Everybody's local date is that of the instant where they live. Whoever has a mail of this schedule for that date
    gets no second one, unless --force says so. Running daemons send what is planned within seconds.

    \b
    Example:
      flowstate-daemon schedule run task-reminder --dry-run --at 2026-03-02T08:00:00Z
    """  # noqa: D301 - click wants the character itself: do not fold this paragraph
    if bodies and not dry_run:
        raise click.UsageError("--bodies goes with --dry-run")
    if not dry_run and not load_config(config_file).schedule.enabled:
        raise ConfigError([f"{OFF}: nobody would send what is planned; with --dry-run it works all the same"])

    async def work(by_hand: ManualRuns) -> int:
        request = RunRequest(name, at or Clock().now(), force)
        if not dry_run:
            print_run_result(await by_hand.run(request), as_json=as_json)
            return 0
        return await (stream_json if as_json else stream_lines)(by_hand, request, bodies=bodies)

    try:
        return with_scheduler(config_file, work)
    except InvalidRunRequestError as refused:
        raise click.UsageError(refused.reason) from refused


def print_run_result(ran: RunResult, *, as_json: bool) -> None:
    """Print what was scheduled."""
    if as_json:
        print_json(ran)
        return
    facts = {"found": ran.found, "recipients": ran.recipients, "scheduled": ran.scheduled, "reopened": ran.reopened}
    print_fields(f"{ran.name} for {format_datetime(ran.at)} UTC:", facts)
    if ran.scheduled or ran.reopened:
        click.echo("running daemons send these within seconds; see: flowstate-daemon schedule list")


async def stream_lines(by_hand: ManualRuns, request: RunRequest, *, bodies: bool) -> int:
    """Print one line for each recipient as it arrives, then the totals. Memory stays flat for a million recipients."""
    sends, reasons = 0, Counter[str]()
    async for one in by_hand.dry_run(request):
        click.echo(dry_run_line(one))
        if one.mail is None:
            reasons[one.reason] += 1
            continue
        sends += 1
        if bodies:
            click.echo(indent(sanitise(one.mail.text), "    "))
    click.echo(f"{request.name}: {sends} would be sent, {sum(reasons.values())} would not; nothing was written")
    for reason, count in reasons.most_common():
        click.echo(f"  {count} x {reason}")
    return 0


def dry_run_line(one: DryRunItem) -> str:
    """One recipient on one line; control characters in user text are escaped. Pure."""
    what = f"send  {one.mail.subject}" if one.mail else f"skip  {one.reason}"
    item = f" {one.task_id}" if one.task_id else ""
    return sanitise(f"{one.local_date} {one.zone:<20} {one.to or one.user_id}{item}: {what}").replace("\n", " ")


async def stream_json(by_hand: ManualRuns, request: RunRequest, *, bodies: bool) -> int:
    """Write one JSON document as items arrive. An outage closes the document properly and then ends the command."""
    counts = {"sends": 0, "skips": 0}
    head = msgspec.json.encode({"name": request.name, "at": request.at, "force": request.force, "dry_run": True})
    opened = False
    try:
        async for one in by_hand.dry_run(request):
            click.echo(b",\n" if opened else head[:-1] + b',"recipients":[\n', nl=False)
            opened = True
            click.echo(msgspec.json.encode(one.to_dict(bodies=bodies)), nl=False)
            counts["sends" if one.would_send else "skips"] += 1
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
    """Do the work on the calendar. Raises ConfigError without DATABASE_URL, Outage."""
    config = load_config(config_file)

    async def at_pool(pool: asyncpg.Pool) -> T:
        return await work(build_manual_runs(config, pool, Clock()))

    return with_database(config_file, at_pool)

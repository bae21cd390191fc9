"""Commands about people and what is written down about them: `migrate`, `explain`, `suppression list|add|remove`.

They need Postgres only; Redis may be away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import asyncpg
import click

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError, InvalidDataError
from flowstate_daemon.cli.context import load_config, run_async
from flowstate_daemon.cli.output import format_timestamp, json_option, print_fields, print_json, print_table
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.mail_history import Attempt, MailHistory, MailRecord
from flowstate_daemon.database.migrations import Migration, Migrator, SchemaMismatchError
from flowstate_daemon.database.pool import MAX_ADDRESS_LENGTH, clean_text, open_pool
from flowstate_daemon.database.recipients import REASONS, Suppression, Suppressions
from flowstate_daemon.mail.address import parse_address
from flowstate_daemon.mail.policy import RecipientStatus

T = TypeVar("T")

MAX_LISTED = 1_000


def normalise_address(address: str) -> str:
    """The address as mails carry it, with an international domain in its `xn--` form; anything else as it is."""
    try:
        return parse_address(address.strip())
    except InvalidDataError:
        return clean_text(address, MAX_ADDRESS_LENGTH)


def with_database(config_file: str | None, work: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
    """Do the work with connections to Postgres. Raises ConfigError without DATABASE_URL, Outage."""
    config = load_config(config_file)
    logs.configure("warning", config.log.format)
    url = config.database.url
    if url is None:
        raise ConfigError(["DATABASE_URL: is not set; this command works on Postgres"])

    async def connected() -> T:
        async with open_pool(clean_dsn(url.get_secret_value()), size=1) as pool:
            return await work(pool)

    return run_async(connected())


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 when something is pending.")
@json_option
@click.pass_obj
def migrate(config_file: str | None, *, only_check: bool, as_json: bool) -> int:
    """Make or update the daemon's own tables in Postgres.

    Safe to run from several places at once. Needs CREATE on the database, or a schema of that name which belongs to
    the role in DATABASE_URL. The application's tables are not touched. `run` does the same by itself.
    """

    async def work(pool: asyncpg.Pool) -> list[Migration]:
        migrator = Migrator(pool)
        return await migrator.pending() if only_check else await migrator.apply()

    try:
        migrations = with_database(config_file, work)
    except SchemaMismatchError as refused:
        raise FlowstateError(refused.reason) from refused
    what = "pending" if only_check else "applied"
    if as_json:
        print_json({what: [migration.title for migration in migrations]})
    else:
        click.echo("\n".join(f"{what}: {migration.title}" for migration in migrations) or "the schema is up to date")
    return 1 if only_check and migrations else 0


@click.command()
@click.argument("address")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=100, show_default=True, help="How many mails.")
@json_option
@click.pass_obj
def explain(config_file: str | None, address: str, limit: int, *, as_json: bool) -> None:
    """Why ADDRESS got each mail, or did not.

    Newest first, with every decision on the way and what the provider reported afterwards.
    """
    address = normalise_address(address)

    async def work(pool: asyncpg.Pool) -> tuple[RecipientStatus, list[MailRecord]]:
        facts = await Suppressions(pool, Clock()).status_for([address])
        return facts[address], await MailHistory(pool).explain(address, limit)

    facts, records = with_database(config_file, work)
    standing = {"suppressed": sorted(facts.suppressed), "unsubscribed": sorted(facts.unsubscribed)}
    if as_json:
        print_json({"address": address, **standing, "mails": records})
        return
    print_fields(address, {name: ", ".join(values) or "no" for name, values in standing.items()})
    columns = ("when (UTC)", "type", "job", "try", "outcome", "decisions", "provider")
    print_table(f"mails: {len(records)}", columns, [row for record in records for row in attempt_rows(record)])


def attempt_rows(record: MailRecord) -> Iterator[tuple[object, ...]]:
    """One row for each try, the latest first; the newest carries what the provider said about the mail. Pure."""
    provider = "\n".join(
        (f"{format_datetime(event.at)} {event.type}" + (f": {event.reason}" if event.reason else ""))
        for event in record.events
    )
    for one in reversed(record.attempts):
        yield (
            format_datetime(one.at),
            record.kind,
            record.job_id,
            one.attempt,
            one.outcome,
            format_decisions(one),
            provider,
        )
        provider = ""


def format_decisions(one: Attempt) -> str:
    """The decisions of an attempt, one a line, and its reason. Pure."""
    lines = [f"{step.check}: {step.result}" + (f" ({step.reason})" if step.reason else "") for step in one.decisions]
    return "\n".join([*lines, *([one.reason] if one.reason else [])])


def format_datetime(instant: Any) -> str:
    return format_timestamp(int(instant.timestamp() * 1000))


@click.group()
def suppression() -> None:
    """List, add and remove addresses that get no mail.

    Hard bounces and complaints come by the provider's webhooks; others are added by hand.
    """


@suppression.command("list")
@click.argument("address", required=False)
@click.option("--limit", type=click.IntRange(1), default=MAX_LISTED, show_default=True, help="No more rows than this.")
@json_option
@click.pass_obj
def list_(config_file: str | None, address: str | None, limit: int, *, as_json: bool) -> None:
    """All suppressed addresses, or what stands against ADDRESS."""

    async def work(pool: asyncpg.Pool) -> list[Suppression]:
        suppressions = Suppressions(pool, Clock())
        return await (suppressions.page(limit) if address is None else suppressions.find(normalise_address(address)))

    found = with_database(config_file, work)
    if as_json:
        print_json(found)
    else:
        rows = [(one.address, one.reason, format_datetime(one.since), one.note) for one in found]
        print_table(f"suppressed: {len(found)}", ("address", "reason", "since (UTC)", "note"), rows)


@suppression.command()
@click.argument("address")
@click.option("--reason", type=click.Choice(REASONS), default="manual", show_default=True)
@click.option("--note", metavar="TEXT", help="For whoever reads the list later.")
@json_option
@click.pass_obj
def add(config_file: str | None, address: str, reason: str, note: str | None, *, as_json: bool) -> None:
    """Send no more mail to ADDRESS.

    One-time codes still go there, unless the reason is `bounced`.
    """
    try:
        address = parse_address(address.strip())
    except InvalidDataError as malformed:
        raise click.UsageError("ADDRESS is no e-mail address") from malformed
    added = with_database(config_file, lambda pool: Suppressions(pool, Clock()).add(address, reason, note))
    if as_json:
        print_json({"address": address, "reason": reason, "added": added})
    else:
        click.echo(f"{address}: suppressed ({reason})" + ("" if added else ", as it was before"))


@suppression.command()
@click.argument("address")
@json_option
@click.pass_obj
def remove(config_file: str | None, address: str, *, as_json: bool) -> None:
    """Let ADDRESS get mail again, whatever stood against it. The provider may keep a list of its own."""
    address = normalise_address(address)
    removed = with_database(config_file, lambda pool: Suppressions(pool, Clock()).remove(address))
    if as_json:
        print_json({"address": address, "removed": removed})
    else:
        click.echo(
            f"{address}: " + (f"no longer suppressed ({', '.join(removed)})" if removed else "was not suppressed")
        )

"""Commands that use Postgres: `migrate`, `explain`, `suppression list|add|remove`. They do not use Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import asyncpg
import click

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError, InvalidDataError
from flowstate_daemon.cli.context import load_config, operator_name, run_async
from flowstate_daemon.cli.output import format_timestamp, json_option, print_fields, print_json, print_table
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.mail_history import Attempt, MailHistory, MailRecord
from flowstate_daemon.database.migrations import Migration, Migrator, SchemaMismatchError
from flowstate_daemon.database.pool import MAX_ADDRESS_LENGTH, clean_text, open_pool
from flowstate_daemon.database.recipients import REASONS, Suppression, Suppressions
from flowstate_daemon.mail.address import parse_address
from flowstate_daemon.mail.policy import RecipientStatus
from flowstate_daemon.mail.pseudonyms import Pseudonyms

T = TypeVar("T")

MAX_LISTED = 1_000


def normalise_address(address: str) -> str:
    """The address as emails use it, with an international domain in its `xn--` form; invalid input is only cleaned."""
    try:
        return parse_address(address.strip())
    except InvalidDataError:
        return clean_text(address, MAX_ADDRESS_LENGTH)


def with_suppressions(config_file: str | None, work: Callable[[Suppressions], Awaitable[T]]) -> T:
    """Do the work with the lists of recipients, in which the link secret finds the entries of forgotten ones."""
    pseudonyms = Pseudonyms(split_secrets(load_config(config_file).http.link_secret))
    return with_database(config_file, lambda pool: work(Suppressions(pool, Clock(), pseudonyms)))


def with_database(config_file: str | None, work: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
    """Do the work with a pool of connections to Postgres.

    Raises ConfigError without DATABASE_URL, and StoreUnavailableError.
    """
    config = load_config(config_file)
    logs.configure("warning", config.log.format)
    url = config.database.url
    if url is None:
        raise ConfigError(["DATABASE_URL: is not set; this command requires Postgres"])

    async def with_pool() -> T:
        async with open_pool(clean_dsn(url.get_secret_value()), size=1) as pool:
            return await work(pool)

    return run_async(with_pool())


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 if a migration is pending.")
@json_option
@click.pass_obj
def migrate(config_file: str | None, *, only_check: bool, as_json: bool) -> int:
    """Create or update the daemon's own tables in Postgres.

    Safe to run concurrently. Requires CREATE on the database, or the schema flowstate_daemon owned by the role in
    DATABASE_URL. It does not touch the application's tables. `run` does the same by itself.
    """

    async def work(pool: asyncpg.Pool) -> list[Migration]:
        migrator = Migrator(pool)
        return await migrator.pending() if only_check else await migrator.apply()

    try:
        migrations = with_database(config_file, work)
    except SchemaMismatchError as error:
        raise FlowstateError(error.reason) from error
    what = "pending" if only_check else "applied"
    if as_json:
        print_json({what: [migration.title for migration in migrations]})
    else:
        click.echo("\n".join(f"{what}: {migration.title}" for migration in migrations) or "the schema is up to date")
    return 1 if only_check and migrations else 0


@click.command()
@click.argument("address")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LISTED),
    default=100,
    show_default=True,
    metavar="NUMBER",
    help="At most this many emails.",
)
@json_option
@click.pass_obj
def explain(config_file: str | None, address: str, limit: int, *, as_json: bool) -> None:
    """Explain why ADDRESS got each email, or did not.

    Newest first, with every decision about it and what the provider reported afterwards.
    """
    address = normalise_address(address)

    pseudonyms = Pseudonyms(split_secrets(load_config(config_file).http.link_secret))

    async def work(pool: asyncpg.Pool) -> tuple[RecipientStatus, list[MailRecord]]:
        statuses = await Suppressions(pool, Clock(), pseudonyms).status_for([address])
        return statuses[address], await MailHistory(pool).explain(address, limit)

    status, records = with_database(config_file, work)
    lists = {"suppressed": sorted(status.suppressed), "unsubscribed": sorted(status.unsubscribed)}
    if as_json:
        print_json({"address": address, **lists, "mails": records})
        return
    print_fields(address, {name: ", ".join(values) or "no" for name, values in lists.items()})
    columns = ("when (UTC)", "kind", "job", "attempt", "outcome", "decisions", "provider")
    print_table(f"emails: {len(records)}", columns, [row for record in records for row in attempt_rows(record)])


def attempt_rows(record: MailRecord) -> Iterator[tuple[object, ...]]:
    """One row per attempt, the latest first; the first row contains the provider's events. Pure."""
    provider = "\n".join(
        (f"{format_datetime(event.at)} {event.type}" + (f": {event.reason}" if event.reason else ""))
        for event in record.events
    )
    for attempt in reversed(record.attempts):
        yield (
            format_datetime(attempt.at),
            record.kind,
            record.job_id,
            attempt.attempt,
            attempt.outcome,
            format_decisions(attempt),
            provider,
        )
        provider = ""


def format_decisions(attempt: Attempt) -> str:
    """The decisions of an attempt, one per line, and its reason. Pure."""
    lines = [
        f"{decision.check}: {decision.result}" + (f" ({decision.reason})" if decision.reason else "")
        for decision in attempt.decisions
    ]
    return "\n".join([*lines, *([attempt.reason] if attempt.reason else [])])


def format_datetime(instant: Any) -> str:
    return format_timestamp(int(instant.timestamp() * 1000))


@click.group()
def suppression() -> None:
    """List, add and remove addresses that get no emails.

    The provider's webhooks add hard bounces and complaints; operators add others.
    """


@suppression.command("list")
@click.argument("address", required=False)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=MAX_LISTED,
    show_default=True,
    metavar="NUMBER",
    help="At most this many rows.",
)
@json_option
@click.pass_obj
def list_(config_file: str | None, address: str | None, limit: int, *, as_json: bool) -> None:
    """List all suppressed addresses, or the entries of ADDRESS."""

    async def work(suppressions: Suppressions) -> list[Suppression]:
        return await (suppressions.page(limit) if address is None else suppressions.find(normalise_address(address)))

    entries = with_suppressions(config_file, work)
    if as_json:
        print_json(entries)
    else:
        rows = [(entry.address, entry.reason, format_datetime(entry.since), entry.note) for entry in entries]
        print_table(f"suppressed: {len(entries)}", ("address", "reason", "since (UTC)", "note"), rows)


@suppression.command()
@click.argument("address")
@click.option("--reason", type=click.Choice(REASONS), default="manual", show_default=True)
@click.option("--note", metavar="TEXT", help="A remark for people who read the list later.")
@json_option
@click.pass_obj
def add(config_file: str | None, address: str, reason: str, note: str | None, *, as_json: bool) -> None:
    """Stop sending emails to ADDRESS.

    One-time codes are still sent, unless the reason is `bounced`.
    """
    try:
        address = parse_address(address.strip())
    except InvalidDataError as error:
        raise click.UsageError("ADDRESS is not an email address") from error
    added = with_suppressions(config_file, lambda lists: lists.add(address, reason, note, actor=operator_name()))
    if as_json:
        print_json({"address": address, "reason": reason, "added": added})
    else:
        click.echo(f"{address}: suppressed ({reason})" + ("" if added else ", as before"))


@suppression.command()
@click.argument("address")
@json_option
@click.pass_obj
def remove(config_file: str | None, address: str, *, as_json: bool) -> None:
    """Allow emails to ADDRESS again. The provider may keep a suppression list of its own."""
    address = normalise_address(address)
    removed = with_suppressions(config_file, lambda lists: lists.remove(address, actor=operator_name()))
    if as_json:
        print_json({"address": address, "removed": removed})
    else:
        click.echo(
            f"{address}: " + (f"no longer suppressed ({', '.join(removed)})" if removed else "was not suppressed")
        )


@suppression.command()
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=50, show_default=True, help="At most this many.")
@json_option
@click.pass_obj
def audit(config_file: str | None, limit: int, *, as_json: bool) -> None:
    """List what operators did to the suppression list."""
    actions = with_suppressions(config_file, lambda lists: lists.actions(limit))
    if as_json:
        print_json(actions)
        return
    rows = [(format_datetime(one.at), one.actor, one.action, one.count, one.target) for one in actions]
    print_table(f"actions: {len(rows)}", ("when (UTC)", "who", "action", "count", "address"), rows)

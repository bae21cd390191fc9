"""Commands that use Postgres: `migrate` and `explain`. They do not use Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

import asyncpg
import click

from flowstate_daemon.base import logs
from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError, InvalidDataError
from flowstate_daemon.cli.context import load_config, name_server, operator_name, run_async
from flowstate_daemon.cli.filters import REVEALED
from flowstate_daemon.cli.output import (
    format_timestamp,
    json_option,
    print_fields,
    print_json,
    print_table,
    rows_option,
)
from flowstate_daemon.config.loader import Config, describe_database
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.mail_history import Attempt, MailHistory, MailRecord
from flowstate_daemon.database.migrations import Migration, Migrator, SchemaMismatchError
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import Suppression, Suppressions, Unsubscribe
from flowstate_daemon.mail.policy import RecipientStatus
from flowstate_daemon.mail.preferences import describe_preferences
from flowstate_daemon.mail.pseudonyms import Pseudonyms

T = TypeVar("T")
Entry = TypeVar("Entry", Suppression, Unsubscribe)

MAX_LISTED = 1_000
NO_EMAILS = (
    "no emails in the ledger: the backend added none for this address, or it still waits in the queue "
    "(flowstate-daemon queue list wait --to ADDRESS)"
)


def parse_argument(address: str) -> str:
    """The address as ledger and lists contain it: in lower case, its domain in ASCII. Raises UsageError."""
    try:
        return parse_address(address.strip()).lower()
    except InvalidDataError as error:
        rule = error.reason.partition("`$.to`: ")[2]
        raise click.UsageError(f"ADDRESS is not an email address{f': {rule}' if rule else ''}") from error


def with_suppressions(config_file: str | None, work: Callable[[Suppressions], Awaitable[T]]) -> T:
    """Do the work with the lists of recipients, in which the link secret finds the entries of forgotten ones."""
    return with_database(config_file, lambda pool, config: work(open_lists(pool, config)))


def open_lists(pool: asyncpg.Pool, config: Config) -> Suppressions:
    """The lists of recipients, with the pseudonyms that the link secret makes."""
    return Suppressions(pool, Clock(), Pseudonyms(split_secrets(config.http.link_secret)))


def with_database(config_file: str | None, work: Callable[[asyncpg.Pool, Config], Awaitable[T]]) -> T:
    """Do the work with a pool of connections to Postgres and the configuration that names it.

    Raises ConfigError without DATABASE_URL, and StoreUnavailableError.
    """
    config = load_config(config_file, needs=[("database", "url")])
    logs.configure("warning", config.log.format, colors=config.log.colors)
    url = config.database.url
    if url is None:
        raise ConfigError(["DATABASE_URL: is not set; this command requires Postgres"])
    name_server(describe_database(config))

    async def with_pool() -> T:
        async with open_pool(clean_dsn(url.get_secret_value()), size=1) as pool:
            return await work(pool, config)

    return run_async(with_pool())


async def read_all(
    page: Callable[[int, Entry | None], Awaitable[list[Entry]]], limit: int | None = None
) -> list[Entry]:
    """Every entry of a list of recipients, or the first `limit`, read page by page."""
    entries: list[Entry] = []
    while limit is None or len(entries) < limit:
        size = MAX_LISTED if limit is None else min(MAX_LISTED, limit - len(entries))
        found = await page(size, entries[-1] if entries else None)
        if not found:
            break
        entries += found
    return entries


async def record_reveal(lists: Suppressions, command: str, count: int) -> None:
    """Record in Postgres that a command has shown whole addresses, and how many."""
    await lists.record(REVEALED, command, count, actor=operator_name())


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 if a migration is pending.")
@json_option
@click.pass_obj
def migrate(config_file: str | None, *, only_check: bool, as_json: bool) -> int:
    """Create or update the daemon's own tables in Postgres.

    Safe to run concurrently. Requires CREATE on the database, or the schema flowstate_daemon owned by the role in
    DATABASE_URL. It does not touch the application's tables. `run` does the same at startup.
    """

    async def work(pool: asyncpg.Pool, _config: Config) -> list[Migration]:
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
@rows_option(100, most=MAX_LISTED, what="emails")
@json_option
@click.pass_obj
def explain(config_file: str | None, address: str, limit: int, *, as_json: bool) -> None:
    """Explain why ADDRESS got each email, or did not.

    Newest first, with every decision about it and what the provider reported afterwards.
    """
    address = parse_argument(address)

    async def work(pool: asyncpg.Pool, config: Config) -> tuple[RecipientStatus, list[MailRecord]]:
        statuses = await open_lists(pool, config).status_for([address])
        return statuses[address], await MailHistory(pool).explain(address, limit)

    status, records = with_database(config_file, work)
    lists = {"suppressed": sorted(status.suppressed), "unsubscribed": sorted(status.unsubscribed)}
    chosen = describe_preferences(status.preferences)
    if as_json:
        print_json({"address": address, **lists, "preferences": chosen, "mails": records})
        return
    fields = {name: ", ".join(values) or "no" for name, values in lists.items()}
    print_fields(address, {**fields, **{name: format_choice(value) for name, value in chosen.items()}})
    if not records:
        click.echo(NO_EMAILS)
        return
    columns = ("when (UTC)", "kind", "job", "attempt", "outcome", "decisions", "provider")
    print_table(f"emails: {len(records)}", columns, [row for record in records for row in attempt_rows(record)])


def format_choice(value: object) -> str:
    """One preference for a person to read. Pure."""
    if isinstance(value, datetime):
        return f"{format_datetime(value)} UTC"
    return ", ".join(value) if isinstance(value, list) else str(value)


def attempt_rows(record: MailRecord) -> Iterator[tuple[object, ...]]:
    """One row per attempt, the latest first, each with the provider's id; the first contains its events. Pure."""
    events = [
        (f"{format_datetime(event.at)} {event.type}" + (f": {event.reason}" if event.reason else ""))
        for event in record.events
    ]
    for attempt in reversed(record.attempts):
        yield (
            format_datetime(attempt.at),
            record.kind,
            record.job_id,
            attempt.attempt,
            attempt.outcome,
            format_decisions(attempt),
            "\n".join([*([attempt.provider_id] if attempt.provider_id else []), *events]),
        )
        events = []


def format_decisions(attempt: Attempt) -> str:
    """The decisions of an attempt, one per line, and its reason. Pure."""
    lines = [
        f"{decision.check}: {decision.result}" + (f" ({decision.reason})" if decision.reason else "")
        for decision in attempt.decisions
    ]
    return "\n".join([*lines, *([attempt.reason] if attempt.reason else [])])


def format_datetime(instant: Any) -> str:
    return format_timestamp(int(instant.timestamp() * 1000))

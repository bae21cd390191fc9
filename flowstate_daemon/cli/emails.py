"""The command `emails list`: outcomes of emails. From the ledger, or without Postgres from the journal in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.cli.context import QueueContext, load_config, with_queue
from flowstate_daemon.cli.database import format_datetime, record_reveal, with_database
from flowstate_daemon.cli.durations import Duration
from flowstate_daemon.cli.filters import REVEALED
from flowstate_daemon.cli.output import json_option, print_json, print_table, reveal_option, rows_option
from flowstate_daemon.config.loader import Config
from flowstate_daemon.database.ledger import Outcome, parse_outcome
from flowstate_daemon.database.mail_list import MailList, OutcomeFilter, OutcomeRow
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.queue.journal import Journal

MAX_LISTED = 10_000
PAGE = 500


@dataclass(frozen=True, slots=True)
class Listed:
    """The rows, and where they are from."""

    rows: list[OutcomeRow]
    source: str


@click.group()
def emails() -> None:
    """List the outcomes of emails."""


@emails.command("list")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="This kind of email; can be repeated.")
@click.option("--outcome", "outcomes", multiple=True, metavar="OUTCOME", help="sent, skipped, expired, failed, …")
@click.option("--to", "address", default="", metavar="ADDRESS", help="The whole address of the recipient.")
@click.option("--reason", default="", metavar="TEXT", help="The reason contains TEXT, in upper or lower case.")
@click.option("--newer-than", "newer_than_s", type=Duration(), metavar="DURATION", help="Not older than this: 2s, 7d.")
@click.option("--older-than", "older_than_s", type=Duration(), metavar="DURATION", help="Older than this.")
@rows_option(50, most=MAX_LISTED)
@reveal_option
@json_option
@click.pass_obj
def list_emails(  # noqa: PLR0913 - one parameter for each option
    config_file: str | None,
    kinds: tuple[str, ...],
    outcomes: tuple[str, ...],
    address: str,
    reason: str,
    newer_than_s: float | None,
    older_than_s: float | None,
    limit: int,
    *,
    reveal: bool,
    as_json: bool,
) -> None:
    """List the outcomes of emails, newest first; each attempt has a row.

    With DATABASE_URL it reads the ledger; without it the newest outcomes, which Redis keeps.
    """
    now = Clock().now()
    wanted = OutcomeFilter(
        kinds=kinds,
        outcomes=outcomes,
        address=normalise_address(address.strip()) if address.strip() else "",
        reason=reason.strip(),
        since=None if newer_than_s is None else now - timedelta(seconds=newer_than_s),
        until=None if older_than_s is None else now - timedelta(seconds=older_than_s),
    )
    read = read_ledger if has_ledger(config_file) else read_journal
    listed = read(config_file, wanted, limit, reveal=reveal)
    shown = [asdict(row) | {"address": row.address if reveal else mask_address(row.address)} for row in listed.rows]
    if as_json:
        print_json({"source": listed.source, "emails": shown})
        return
    if not shown:
        hint = "; --to needs the whole address" if address and "@" not in address else ""
        click.echo(f"no emails match{hint}; read from the {listed.source}")
        return
    columns = ("when (UTC)", "kind", "to", "outcome", "reason", "job", "attempt")
    rows = [
        (format_datetime(one["at"]), one["kind"], one["address"], one["outcome"], one["reason"], one["job_id"],
         one["attempt"])
        for one in shown
    ]  # fmt: skip
    print_table(f"emails: {len(rows)}, newest first, from the {listed.source}", columns, rows)


def has_ledger(config_file: str | None) -> bool:
    return load_config(config_file, needs=[("database", "url")]).database.url is not None


def read_ledger(config_file: str | None, wanted: OutcomeFilter, limit: int, *, reveal: bool) -> Listed:
    """The rows of the ledger, page by page. Raises StoreUnavailableError."""

    async def work(pool: Any, _config: Config) -> list[OutcomeRow]:
        mails, rows = MailList(pool, Clock()), list[OutcomeRow]()
        after = None
        while len(rows) < limit:
            page = await mails.page(wanted, min(PAGE, limit - len(rows)), after)
            rows += page.rows
            after = page.following
            if after is None:
                break
        if reveal:
            await record_reveal(Suppressions(pool, Clock()), "emails list", len(rows))
        return rows

    return Listed(with_database(config_file, work), "ledger")


def read_journal(config_file: str | None, wanted: OutcomeFilter, limit: int, *, reveal: bool) -> Listed:
    """The rows of the journal, newest first. Raises StoreUnavailableError."""

    async def work(context: QueueContext) -> list[OutcomeRow]:
        journal = Journal(context.connection, context.keys)
        matches, rows = matcher(wanted), list[OutcomeRow]()
        skip = 0
        while len(rows) < limit and (entries := await journal.newest(PAGE, skip=skip)):
            rows += [row for row in to_rows(entries) if matches(row)]
            skip += len(entries)
        if reveal:
            await context.audit.record(REVEALED, "emails list", len(rows[:limit]))
        return rows[:limit]

    return Listed(with_queue(config_file, work), "journal in Redis")


def to_rows(entries: Iterable[bytes]) -> Iterable[OutcomeRow]:
    """The readable entries of the journal as rows of the ledger."""
    for entry in entries:
        try:
            yield to_row(parse_outcome(entry))
        except (InvalidDataError, OverflowError, ValueError):
            continue  # written by something else; the ledger writer would reject it


def to_row(outcome: Outcome) -> OutcomeRow:
    """An entry of the journal as the ledger would have it."""
    return OutcomeRow(
        key=outcome.key,
        mail=outcome.mail_key,
        at=datetime.fromtimestamp(outcome.at / 1000, UTC),
        address=outcome.to,
        kind=outcome.kind,
        job_id=outcome.job_id,
        attempt=outcome.attempt,
        outcome=outcome.outcome,
        provider_id=outcome.provider_id,
        reason=outcome.reason,
    )


def matcher(wanted: OutcomeFilter) -> Callable[[OutcomeRow], bool]:
    """Whether a row matches a filter, as the query of the ledger decides it."""

    def matches(row: OutcomeRow) -> bool:
        return (
            (not wanted.kinds or row.kind in wanted.kinds)
            and (not wanted.outcomes or row.outcome in wanted.outcomes)
            and (not wanted.address or row.address == wanted.address)
            and wanted.reason.lower() in (row.reason or "").lower()
            and (wanted.since is None or row.at >= wanted.since)
            and (wanted.until is None or row.at <= wanted.until)
        )

    return matches

"""`forget ADDRESS`: removes a person from Redis, ledger and lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import click

from flowstate_daemon.base.address import FORGOTTEN, address_spellings, normalise_address
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.cli.context import QueueContext, load_config, with_queue
from flowstate_daemon.cli.filters import confirm, is_interactive
from flowstate_daemon.cli.output import json_option, print_fields, print_json, progress
from flowstate_daemon.config.loader import Config
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.forgetting import RecipientForgetter
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.mail.pseudonyms import Pseudonyms
from flowstate_daemon.queue.forgetting import QueueFindings, QueueForgetter

WITHOUT_KEY = (
    "FLOWSTATE_HTTP_LINK_SECRET: not set; it is the key of the hash that keeps suppressed and unsubscribed people from"
    " getting emails again. Set it, or use --drop-lists"
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What Redis and Postgres hold, or held, about the recipient; `tables` is empty without Postgres."""

    queue: QueueFindings
    tables: dict[str, int]

    @property
    def total(self) -> int:
        return self.queue.jobs.total() + self.queue.journal + self.queue.audit + sum(self.tables.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "jobs": dict(self.queue.jobs),
            "journal": self.queue.journal,
            "audit": self.queue.audit,
            "tables": self.tables,
            "in_flight": self.queue.in_flight,
            "in_stored_requests": self.queue.in_requests,
        }


@click.command()
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask; required without a terminal.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; show what is stored.")
@click.option("--drop-lists", is_flag=True, help="Also delete suppressions and unsubscribes; emails may be sent again.")
@json_option
@click.pass_obj
def forget(config_file: str | None, address: str, *, yes: bool, dry_run: bool, drop_lists: bool, as_json: bool) -> int:
    """Remove a person from the queue, the ledger and the lists.

    Shows what is stored about ADDRESS, and asks before removing it. Active jobs are not removed: run the command again
    when they have finished. Suppressions and unsubscribes stay in effect, as a keyed hash instead of the address.
    """
    config = load_config(config_file)
    address = address.strip()
    if "@" not in address:
        raise click.UsageError("ADDRESS is not an email address")
    pseudonyms = Pseudonyms(split_secrets(config.http.link_secret))

    async def work(context: QueueContext) -> tuple[Findings, Findings | None]:
        async with _forgetters(context, config, address) as (queue, tables):
            with progress("reading", 0) as done:
                found = Findings(await queue.find(done), {} if tables is None else dict(await tables.count()))
            if found.total and not as_json:
                _print("Found:", found)
            if dry_run or not _is_confirmed(found, yes=yes):
                return found, None
            listed = found.tables.get("suppressions", 0) + found.tables.get("unsubscribes", 0)
            if listed and not drop_lists and not pseudonyms.available:
                raise ConfigError([WITHOUT_KEY])
            with progress("removing", 0) as done:
                removed = Findings(await queue.delete(done), {})
            if tables is not None:
                removed.tables.update(
                    await tables.delete(normalise_address(address), None if drop_lists else pseudonyms)
                )
                await tables.record(context.audit.actor, removed.total)
            await context.audit.record("forget", FORGOTTEN, removed.total)
            return found, removed

    found, removed = with_queue(config_file, work)
    if as_json:
        document = {"found": found.to_dict(), "removed": None if removed is None else removed.to_dict()}
        print_json(document | {"lists_kept_as_hash": removed is not None and not drop_lists and pseudonyms.available})
    elif removed is None:
        click.echo("nothing was removed" if found.total else "nothing to remove")
    else:
        _print("Removed:", removed)
        _print_rest(removed)
    return 1 if removed is not None and removed.queue.in_flight else 0


@asynccontextmanager
async def _forgetters(
    context: QueueContext, config: Config, address: str
) -> AsyncIterator[tuple[QueueForgetter, RecipientForgetter | None]]:
    """What removes the address from the queue, and from Postgres if there is one."""
    spellings = address_spellings(address)
    queue = QueueForgetter(context.connection, context.keys, spellings)
    if config.database.url is None:
        yield queue, None
        return
    pool: asyncpg.Pool
    async with open_pool(clean_dsn(config.database.url.get_secret_value()), size=1) as pool:
        yield queue, RecipientForgetter(pool, context.clock, spellings)


def _is_confirmed(found: Findings, *, yes: bool) -> bool:
    """Ask on a terminal, if there is anything to remove. Raises Abort, and without a terminal UsageError.

    The error does not depend on what was found: a script that lacks `--yes` fails the first time that it is run.
    """
    if found.total or not is_interactive():
        confirm("Remove everything about this person?", yes=yes, destroys=True)
    return yes or found.total > 0


def _print(title: str, findings: Findings) -> None:
    jobs = {f"{state} jobs": count for state, count in findings.queue.jobs.items()}
    lists = {"journal entries": findings.queue.journal, "audit entries": findings.queue.audit}
    rows = {**jobs, **lists, **findings.tables}
    print_fields(title, {name: count for name, count in rows.items() if count} or {"nothing": "0"})


def _print_rest(removed: Findings) -> None:
    """What could not be removed."""
    if removed.queue.in_flight:
        ids = ", ".join(removed.queue.in_flight)
        click.echo(f"not removed: a worker is sending {ids}; run the command again when it has finished")
    if removed.queue.in_requests:
        click.echo(
            f"not removed: {removed.queue.in_requests} emails in stored requests that also contain others' emails;"
            " Redis deletes these requests when they are settled, after 23 hours at the latest"
        )

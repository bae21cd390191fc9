"""Commands that list and change who gets no emails: `suppression` (must not) and `unsubscribed` (does not want to)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import click

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.cli.context import operator_name, unsubscribable_kinds
from flowstate_daemon.cli.csv_lists import (
    export_suppressions,
    export_unsubscribes,
    import_suppressions,
    import_unsubscribes,
)
from flowstate_daemon.cli.database import (
    Entry,
    format_datetime,
    parse_argument,
    read_all,
    record_reveal,
    with_suppressions,
)
from flowstate_daemon.cli.filters import shown_address
from flowstate_daemon.cli.output import json_option, print_json, print_table, reveal_option, rows_option
from flowstate_daemon.database.recipients import REASONS, ListAction, Suppression, Suppressions, Unsubscribe
from flowstate_daemon.mail.policy import ALL_KINDS

MAX_LISTED = 1_000


def known_kind(ctx: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """A kind that people can unsubscribe from, also one of `mail.kinds_dir`. Raises BadParameter."""
    if name is None:
        return name
    known = unsubscribable_kinds(ctx.obj)
    if name not in known:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(map(repr, known))}.")
    return name


limit_option = click.option(
    "--limit", type=click.IntRange(1), metavar="NUMBER", help="At most this many rows; default: all."
)
kind_option = click.option("--kind", callback=known_kind, metavar="KIND", help="One kind of email; default: all kinds.")


async def read_shown(
    lists: Suppressions,
    page: Callable[[int, Entry | None], Awaitable[list[Entry]]],
    command: str,
    limit: int | None,
    *,
    reveal: bool,
) -> list[Entry]:
    """The entries as they may be shown: masked, or whole and recorded in the audit log."""
    entries = await read_all(page, limit)
    if reveal:
        await record_reveal(lists, command, len(entries))
    return [replace(entry, address=shown_address(entry.address, reveal=reveal)) for entry in entries]


def title(what: str, entries: Sequence[object], limit: int | None) -> str:
    """The number of entries, and whether there may be more because the limit was reached."""
    return f"{what}: {len(entries)}" + (f" (the maximum set by --limit {limit})" if len(entries) == limit else "")


@click.group()
def suppression() -> None:
    """List, add and remove addresses that get no emails.

    The provider's webhooks add hard bounces, complaints and addresses on the provider's own list; operators add others.
    Unsubscribes are a separate list: see `flowstate-daemon unsubscribed`.
    """


@suppression.command("list")
@click.argument("address", required=False)
@limit_option
@reveal_option
@json_option
@click.pass_obj
def list_suppressions(
    config_file: str | None, address: str | None, limit: int | None, *, reveal: bool, as_json: bool
) -> None:
    """List all suppressed addresses, or the entries of ADDRESS.

    Without ADDRESS, addresses are masked unless --reveal is given. `export` writes a file with all of them.
    """

    async def work(lists: Suppressions) -> list[Suppression]:
        if address is not None:
            return await lists.find(normalise_address(address))
        return await read_shown(lists, lists.page, "suppression list", limit, reveal=reveal)

    entries = with_suppressions(config_file, work)
    if not entries and address is not None:
        parse_argument(address)
    if as_json:
        print_json(entries)
    else:
        rows = [(entry.address, entry.reason, format_datetime(entry.since), entry.note) for entry in entries]
        print_table(title("suppressed", entries, limit), ("address", "reason", "since (UTC)", "note"), rows)


@suppression.command("add")
@click.argument("address")
@click.option("--reason", type=click.Choice(REASONS), default="manual", show_default=True)
@click.option("--note", metavar="TEXT", help="A note for other operators, shown in the list.")
@json_option
@click.pass_obj
def add_suppression(config_file: str | None, address: str, reason: str, note: str | None, *, as_json: bool) -> None:
    """Stop sending emails to ADDRESS.

    One-time codes are still sent, unless the reason is `bounced` or `suppressed`.
    """
    address = parse_argument(address)
    added = with_suppressions(config_file, lambda lists: lists.add(address, reason, note, actor=operator_name()))
    if as_json:
        print_json({"address": address, "reason": reason, "added": added})
    else:
        click.echo(f"{address}: suppressed ({reason})" + ("" if added else ", as before"))


@suppression.command("remove")
@click.argument("address")
@json_option
@click.pass_obj
def remove_suppression(config_file: str | None, address: str, *, as_json: bool) -> None:
    """Allow emails to ADDRESS again.

    The provider may keep a suppression list of its own. To undo an unsubscribe use `unsubscribed remove`.
    """
    normal = normalise_address(address)

    async def work(lists: Suppressions) -> tuple[list[str], list[Unsubscribe]]:
        return await lists.remove(normal, actor=operator_name()), await lists.find_unsubscribes(normal)

    removed, unsubscribes = with_suppressions(config_file, work)
    if not removed:
        parse_argument(address)
    if as_json:
        kinds = [entry.kind for entry in unsubscribes]
        print_json({"address": normal, "removed": removed, "still_unsubscribed": kinds})
        return
    click.echo(f"{normal}: " + (f"no longer suppressed ({', '.join(removed)})" if removed else "was not suppressed"))
    if unsubscribes:
        click.echo(
            f"it is unsubscribed from {describe_kinds(unsubscribes)}; to undo that: "
            f"flowstate-daemon unsubscribed remove {normal}"
        )


@suppression.command()
@rows_option(50, most=MAX_LISTED)
@reveal_option
@json_option
@click.pass_obj
def audit(config_file: str | None, limit: int, *, reveal: bool, as_json: bool) -> None:
    """List what operators did to suppressions and unsubscribes.

    Addresses are masked unless --reveal is given.
    """

    async def work(lists: Suppressions) -> list[ListAction]:
        found = await lists.actions(limit)
        if reveal:
            await record_reveal(lists, "suppression audit", len(found))
        return [replace(one, target=shown_address(one.target, reveal=reveal)) for one in found]

    actions = with_suppressions(config_file, work)
    if as_json:
        print_json(actions)
        return
    rows = [(format_datetime(one.at), one.actor, one.action, one.count, one.target) for one in actions]
    print_table(f"actions: {len(rows)}", ("when (UTC)", "who", "action", "count", "address"), rows)


@click.group()
def unsubscribed() -> None:
    """List, add and undo unsubscribes.

    Recipients unsubscribe with the link in an email. Codes and other emails that they request are still sent.
    """


@unsubscribed.command("list")
@click.argument("address", required=False)
@limit_option
@reveal_option
@json_option
@click.pass_obj
def list_unsubscribes(
    config_file: str | None, address: str | None, limit: int | None, *, reveal: bool, as_json: bool
) -> None:
    """List all unsubscribes, or those of ADDRESS.

    Without ADDRESS, addresses are masked unless --reveal is given. `export` writes a file with all of them.
    """

    async def work(lists: Suppressions) -> list[Unsubscribe]:
        if address is not None:
            return await lists.find_unsubscribes(normalise_address(address))
        return await read_shown(lists, lists.unsubscribes_page, "unsubscribed list", limit, reveal=reveal)

    entries = with_suppressions(config_file, work)
    if not entries and address is not None:
        parse_argument(address)
    if as_json:
        print_json(entries)
    else:
        rows = [(entry.address, describe_kinds([entry]), format_datetime(entry.since)) for entry in entries]
        print_table(title("unsubscribed", entries, limit), ("address", "kind", "since (UTC)"), rows)


@unsubscribed.command("add")
@click.argument("address")
@kind_option
@json_option
@click.pass_obj
def add_unsubscribe(config_file: str | None, address: str, kind: str | None, *, as_json: bool) -> None:
    """Unsubscribe ADDRESS, for a recipient who has asked for it."""
    address, kind = parse_argument(address), kind or ALL_KINDS
    added = with_suppressions(config_file, lambda lists: lists.unsubscribe(address, kind, actor=operator_name()))
    if as_json:
        print_json({"address": address, "kind": kind, "added": added})
    else:
        click.echo(f"{address}: unsubscribed from {describe_kind(kind)}" + ("" if added else ", as before"))


@unsubscribed.command("remove")
@click.argument("address")
@kind_option
@json_option
@click.pass_obj
def remove_unsubscribe(config_file: str | None, address: str, kind: str | None, *, as_json: bool) -> None:
    """Undo the unsubscribes of ADDRESS, if the recipient asks for it."""
    normal, wanted = normalise_address(address), kind or ALL_KINDS

    async def work(lists: Suppressions) -> tuple[list[str], list[Unsubscribe]]:
        removed = await lists.remove_unsubscribes(normal, wanted, actor=operator_name())
        return removed, await lists.find_unsubscribes(normal)

    removed, left = with_suppressions(config_file, work)
    if not removed and not left:
        parse_argument(address)
    if as_json:
        print_json({"address": normal, "removed": removed, "still_unsubscribed": [entry.kind for entry in left]})
        return
    click.echo(
        f"{normal}: " + (f"gets {describe_kind(wanted)} again" if removed else "was not unsubscribed")
        if not any(entry.kind == ALL_KINDS for entry in left)
        else f"{normal}: still unsubscribed from all kinds; use unsubscribed remove without --kind"
    )


def describe_kind(kind: str) -> str:
    return "all kinds" if kind == ALL_KINDS else kind


def describe_kinds(entries: Sequence[Unsubscribe]) -> str:
    return ", ".join(describe_kind(entry.kind) for entry in entries)


for command in (export_suppressions, import_suppressions):
    suppression.add_command(command)
for command in (export_unsubscribes, import_unsubscribes):
    unsubscribed.add_command(command)

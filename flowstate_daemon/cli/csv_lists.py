"""Commands `suppression|unsubscribed import|export`: the lists as CSV files.

A file has a header with the names of its columns, in any order. It is checked as a whole before the first row is added.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import click

from flowstate_daemon.base.address import normalise_address, parse_address
from flowstate_daemon.base.errors import FlowstateError, InvalidDataError
from flowstate_daemon.base.time_zones import parse_instant
from flowstate_daemon.cli.context import operator_name, unsubscribable_kinds
from flowstate_daemon.cli.database import read_all, record_reveal, with_suppressions
from flowstate_daemon.cli.filters import confirm
from flowstate_daemon.cli.output import json_option, print_json, progress
from flowstate_daemon.database.recipients import REASONS, Suppressions
from flowstate_daemon.mail.policy import ALL_KINDS

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_SHOWN_ERRORS = 20
STANDARD_STREAM = "-"
ALL = "all"  # ALL_KINDS as a file has it
SUPPRESSION_COLUMNS = ("address", "reason", "since", "note")
UNSUBSCRIBE_COLUMNS = ("address", "kind", "since")
PSEUDONYM = re.compile(r"#[0-9a-f]{64}")  # the entry of a forgotten person
# Spreadsheets take a cell that begins like this for a formula. The apostrophe before it means: text.
FORMULA = re.compile(r"[=+\-@\t\r']")

file_argument = click.argument("file", default=STANDARD_STREAM, metavar="[FILE]")
dry_run_option = click.option("--dry-run", is_flag=True, help="Check the file and add nothing.")
yes_option = click.option("--yes", is_flag=True, help="Overwrite an existing file without asking.")


class RowError(ValueError):
    """A row of a file that cannot be imported; the text says why and contains no address."""


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """One valid row; `value` is the reason of a suppression, or the kind of an unsubscribe."""

    address: str = field(repr=False)
    value: str
    since: datetime | None
    note: str | None = None


@click.command("export")
@file_argument
@yes_option
@json_option
@click.pass_obj
def export_suppressions(config_file: str | None, file: str, *, yes: bool, as_json: bool) -> None:
    """Write the list as CSV to FILE, or to standard output.

    It contains whole addresses; this is recorded in the audit log.
    """

    async def work(lists: Suppressions) -> list[Sequence[str]]:
        entries = await read_all(lists.page)
        await record_reveal(lists, "suppression export", len(entries))
        return [(entry.address, entry.reason, entry.since.isoformat(), entry.note or "") for entry in entries]

    write_file(config_file, file, SUPPRESSION_COLUMNS, work, yes=yes, as_json=as_json)


@click.command("export")
@file_argument
@yes_option
@json_option
@click.pass_obj
def export_unsubscribes(config_file: str | None, file: str, *, yes: bool, as_json: bool) -> None:
    """Write the list as CSV to FILE, or to standard output.

    It contains whole addresses; this is recorded in the audit log.
    """

    async def work(lists: Suppressions) -> list[Sequence[str]]:
        entries = await read_all(lists.unsubscribes_page)
        await record_reveal(lists, "unsubscribed export", len(entries))
        return [
            (entry.address, ALL if entry.kind == ALL_KINDS else entry.kind, entry.since.isoformat())
            for entry in entries
        ]

    write_file(config_file, file, UNSUBSCRIBE_COLUMNS, work, yes=yes, as_json=as_json)


@click.command("import")
@file_argument
@dry_run_option
@json_option
@click.pass_obj
def import_suppressions(config_file: str | None, file: str, *, dry_run: bool, as_json: bool) -> None:
    """Suppress the addresses of a CSV file.

    It is read from FILE, or from standard input.

    Its columns are address, and optionally reason, since and note. Without a reason it is `manual`. An entry that is
    in the list already stays as it is. If any row is invalid, none is added.
    """
    entries = read_file(file, SUPPRESSION_COLUMNS, parse_suppression)

    async def add(lists: Suppressions, row: ImportedRow) -> bool:
        return await lists.add(row.address, row.value, row.note, actor=operator_name(), since=row.since)

    import_entries(config_file, entries, add, dry_run=dry_run, as_json=as_json)


@click.command("import")
@file_argument
@dry_run_option
@json_option
@click.pass_obj
def import_unsubscribes(config_file: str | None, file: str, *, dry_run: bool, as_json: bool) -> None:
    """Unsubscribe the addresses of a CSV file.

    It is read from FILE, or from standard input.

    Its columns are address, and optionally kind and since. Without a kind, or with `all`, it means all kinds. An entry
    that is in the list already stays as it is. If any row is invalid, none is added.
    """
    kinds = unsubscribable_kinds(config_file)
    entries = read_file(file, UNSUBSCRIBE_COLUMNS, partial(parse_unsubscribe, kinds=kinds))

    async def add(lists: Suppressions, row: ImportedRow) -> bool:
        return await lists.unsubscribe(row.address, row.value, actor=operator_name(), since=row.since)

    import_entries(config_file, entries, add, dry_run=dry_run, as_json=as_json)


def import_entries(
    config_file: str | None,
    entries: Sequence[ImportedRow],
    add: Callable[[Suppressions, ImportedRow], Awaitable[bool]],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add the entries, and print how many are new."""

    async def work(lists: Suppressions) -> int:
        added = 0
        with progress("importing", len(entries)) as done:
            for number, entry in enumerate(entries, 1):
                added += await add(lists, entry)
                done(number)
        return added

    added = 0 if dry_run else with_suppressions(config_file, work)
    if as_json:
        print_json({"rows": len(entries), "added": added, "dry_run": dry_run})
    elif dry_run:
        click.echo(f"rows: {len(entries)}, all valid; nothing was added")
    else:
        click.echo(f"added: {added}; in the list already: {len(entries) - added}")


def write_file(
    config_file: str | None,
    file: str,
    columns: Sequence[str],
    read: Callable[[Suppressions], Awaitable[list[Sequence[str]]]],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Write the rows as CSV; a new file is readable by its owner only, because it contains addresses."""
    if file == STANDARD_STREAM and as_json:
        raise click.UsageError("--json needs a FILE; for the entries as JSON use list --json")
    if file != STANDARD_STREAM and Path(file).exists():
        confirm(f"Overwrite {file}?", yes=yes, destroys=True)
    rows = with_suppressions(config_file, read)
    text = encode_csv(columns, rows)
    if file == STANDARD_STREAM:
        click.echo(text, nl=False)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
    except OSError as error:
        raise FlowstateError(f"{file}: {error.strerror}") from error
    if as_json:
        print_json({"exported": len(rows), "file": file})
    else:
        click.echo(f"exported: {len(rows)} to {file}")


def encode_csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A CSV file (RFC 4180); what a spreadsheet would take for a formula is marked as text. Pure."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([f"'{cell}" if FORMULA.match(cell) else cell for cell in row] for row in rows)
    return stream.getvalue()


def read_file(
    file: str, columns: Sequence[str], parse: Callable[[Mapping[str, str]], ImportedRow]
) -> list[ImportedRow]:
    """The entries of a file. Raises UsageError that names the wrong lines."""
    name = "standard input" if file == STANDARD_STREAM else file
    try:
        with click.open_file(file, "rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"{name}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise click.UsageError(f"{name}: larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name}: not a CSV file in UTF-8") from error
    entries, errors = decode_csv(text, columns, parse)
    if errors:
        more = [f"and {len(errors) - MAX_SHOWN_ERRORS} more"] if len(errors) > MAX_SHOWN_ERRORS else []
        raise click.UsageError("\n  - ".join([f"{name}: nothing was added", *errors[:MAX_SHOWN_ERRORS], *more]))
    return entries


def decode_csv(
    text: str, columns: Sequence[str], parse: Callable[[Mapping[str, str]], ImportedRow]
) -> tuple[list[ImportedRow], list[str]]:
    """The entries, and an error for each line that is wrong. Pure."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets in many countries write semicolons
    entries: list[ImportedRow] = []
    errors: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [cell.strip().lower() for cell in next(reader, [])]
        if problem := check_header(names, columns):
            return [], [problem]
        for row in reader:
            try:
                if any(cell.strip() for cell in row):
                    entries.append(parse(_cells(names, row)))
            except RowError as error:
                errors.append(f"line {reader.line_num}: {error}")
    except csv.Error as error:
        errors.append(f"line {reader.line_num}: {error}")
    return entries, errors


def check_header(names: Sequence[str], columns: Sequence[str]) -> str:
    """What is wrong with the first line; "" when nothing is. Pure."""
    expected = f"expected a first line with the columns {', '.join(columns)}; only address is required"
    if "address" not in names:
        return f"line 1: there is no column address; {expected}"
    if len(set(names)) < len(names):
        return f"line 1: a column is there twice; {expected}"
    unknown = sorted(set(names) - set(columns))
    return f"line 1: unknown columns: {', '.join(unknown)[:100]}; {expected}" if unknown else ""


def _cells(names: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if len(row) != len(names):
        raise RowError(f"{len(row)} cells instead of {len(names)}")
    return {name: unmark(cell.strip()) for name, cell in zip(names, row, strict=True)}


def unmark(cell: str) -> str:
    """A cell without the apostrophe that marks it as text. Pure."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell[1:]) else cell


def parse_suppression(cells: Mapping[str, str]) -> ImportedRow:
    """One row. Raises RowError."""
    reason = cells.get("reason", "").lower() or "manual"
    if reason not in REASONS:
        raise RowError(f"the reason is not one of {', '.join(REASONS)}")
    return ImportedRow(_address(cells), reason, _since(cells), cells.get("note") or None)


def parse_unsubscribe(cells: Mapping[str, str], kinds: Sequence[str]) -> ImportedRow:
    """One row. Raises RowError."""
    kind = cells.get("kind", "").lower()
    if kind in ("", ALL, ALL_KINDS):
        return ImportedRow(_address(cells), ALL_KINDS, _since(cells))
    if kind not in kinds:
        raise RowError(f"the kind is not all or one of {', '.join(kinds)}")
    return ImportedRow(_address(cells), kind, _since(cells))


def _address(cells: Mapping[str, str]) -> str:
    address = cells["address"]
    if PSEUDONYM.fullmatch(address):
        return address
    try:
        return normalise_address(parse_address(address))
    except InvalidDataError:
        raise RowError("not an email address") from None


def _since(cells: Mapping[str, str]) -> datetime | None:
    text = cells.get("since", "")
    try:
        return parse_instant(text) if text else None
    except ValueError:
        raise RowError("since is not a time in ISO 8601, such as 2026-03-02T08:00:00Z") from None

"""The output of commands: tables for people, one JSON document for programs, progress bars only on a terminal."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Command = TypeVar("Command", bound=Callable[..., Any])

PIPE_WIDTH = 10_000  # columns, when the output is not a terminal
MIN_CELL_WIDTH = 20  # columns that a cell keeps on a narrow terminal

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")


def finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Reject NaN and infinity, which click's ranges accept."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("must be a finite number")
    return value


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    click.echo(
        msgspec.json.format(msgspec.json.encode(document), indent=2)
    )  # bytes, so that it is UTF-8 in every locale


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table. Cells are plain text: text typed by users cannot control the terminal."""
    table = _grid(header=True)
    texts = [[Text(sanitise(cell)) for cell in row] for row in rows]
    for number, column in enumerate(columns):
        # Only the last column, which contains prose, gets narrower on a small terminal.
        width = 0 if column == columns[-1] else max(len(column), *(len(row[number]) for row in texts), 0)
        table.add_column(column, overflow="fold", min_width=min(width, MIN_CELL_WIDTH))
    for row in texts:
        table.add_row(*row)
    _print(title, table)


def print_fields(title: str, fields: Mapping[str, object]) -> None:
    """Print names and values, one per line, without the fields that have no value."""
    table = _grid(header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, "", {}, [], ()):
            table.add_row(name.replace("_", " "), Text(sanitise(value)))
    _print(title, table)


def _grid(*, header: bool) -> Table:
    """Columns without borders, which would take space from the reasons and complicate grep and awk."""
    return Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))


def _print(title: str, table: Table) -> None:
    # A pipe or a file has no width: programs read it line by line, so lines must not be folded.
    console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=PIPE_WIDTH)
    click.echo(sanitise(title) + "\n")
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()), color=True)


def sanitise(value: object) -> str:
    """A value as safe text: control characters are escaped, except line feeds."""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, dict | list | tuple):
        text = msgspec.json.encode(value).decode()
    else:
        text = "" if value is None else str(value)
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def format_timestamp(instant_ms: int | None) -> str:
    """A Unix time in milliseconds as ISO 8601 in UTC; empty for None."""
    if instant_ms is None:
        return ""
    try:
        return datetime.fromtimestamp(instant_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{instant_ms:.3g} ms"  # a job with an impossible timestamp must not break the list


def format_duration(milliseconds: float | None) -> str:
    """A duration, short enough for a cell.

    >>> format_duration(90_000)
    '1m30s'
    """
    if milliseconds is None:
        return ""
    seconds = milliseconds / 1000
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Yields a function that takes the number of items done so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)

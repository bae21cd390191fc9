"""How commands speak: tables and colours for people, one JSON document for programs, progress only on a terminal."""

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

PIPE_WIDTH = 10_000  # columns, where there is no terminal
MIN_CELL_WIDTH = 20  # columns that a cell keeps on a narrow one

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")


def finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Refuse what a range lets pass: NaN, which is in every range, and the infinite."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("must be a finite number")
    return value


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))  # bytes: UTF-8 whatever the locale


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people. Cells are plain text: what users typed cannot colour or move the terminal."""
    table = _grid(header=True)
    texts = [[Text(sanitise(cell)) for cell in row] for row in rows]
    for number, column in enumerate(columns):
        # The last column, with words in it, is the one that narrows on a small terminal.
        widest = 0 if column == columns[-1] else max(len(column), *(len(row[number]) for row in texts), 0)
        table.add_column(column, overflow="fold", min_width=min(widest, MIN_CELL_WIDTH))
    for row in texts:
        table.add_row(*row)
    _print(title, table)


def print_fields(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, one a line; what has no value is left out."""
    table = _grid(header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, "", {}, [], ()):
            table.add_row(name.replace("_", " "), Text(sanitise(value)))
    _print(title, table)


def _grid(*, header: bool) -> Table:
    """Columns without a frame: it would cost the room that reasons need, and stand in the way of grep and awk."""
    return Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))


def _print(title: str, table: Table) -> None:
    # A pipe or a file has no width: what is read line by line must not be folded.
    console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=PIPE_WIDTH)
    click.echo(sanitise(title) + "\n")
    with console.capture() as drawn:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()), color=True)


def sanitise(value: object) -> str:
    """A value as one safe line or paragraph: control characters are shown, not obeyed."""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, dict | list | tuple):
        text = msgspec.json.encode(value).decode()
    else:
        text = "" if value is None else str(value)
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def format_timestamp(instant_ms: int | None) -> str:
    """A Unix ms instant as ISO 8601 in UTC, or an empty cell."""
    if instant_ms is None:
        return ""
    try:
        return datetime.fromtimestamp(instant_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{instant_ms:.3g} ms"  # one absurd job must not hide all others


def format_duration(milliseconds: float | None) -> str:
    """A duration in words that fit a cell.

    >>> span(90_000)
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
    """A bar on a terminal, silence elsewhere. Yields what to call with the number of things done so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)

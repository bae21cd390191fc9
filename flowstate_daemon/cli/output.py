"""The output of commands: tables for people, one JSON document for programs, progress bars only on a terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowstate_daemon.cli.text_layout import fold, layout_fields, layout_table

# Controls other than line feeds, changes of direction, line and paragraph separators, lone surrogates.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
reveal_option = click.option("--reveal", is_flag=True, help="Show whole addresses; this is recorded in the audit log.")


def rows_option(default: int, *, most: int, what: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option `--limit` of a command that lists rows: 1 to `most`. `what` names them in the help."""
    return click.option(
        "--limit",
        type=click.IntRange(1, most),
        default=default,
        show_default=True,
        metavar="NUMBER",
        help=f"At most this many{what and ' ' + what}.",
    )


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    click.echo(
        msgspec.json.format(msgspec.json.encode(document), indent=2)
    )  # bytes, so that it is UTF-8 in every locale


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, or records on a terminal that is too narrow for it; without rows only the title.

    Text typed by users cannot control the terminal.
    """
    if not rows:
        click.echo(sanitise(title))
        return
    cells = [[sanitise(cell) for cell in row] for row in rows]
    _print(title, layout_table(columns, cells, output_width()))


def print_fields(title: str, fields: Mapping[str, object]) -> None:
    """Print names and values, one per line, without the fields that have no value."""
    filled = {name: value for name, value in fields.items() if value not in (None, "", {}, [], ())}
    texts = [(name.replace("_", " "), sanitise(value)) for name, value in filled.items()]
    _print(title, layout_fields(texts, output_width()))


def output_width() -> int | None:
    """The columns of the terminal, or $COLUMNS; None for a pipe or a file: programs read line by line."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _print(title: str, lines: Sequence[str]) -> None:
    click.echo("\n".join([*fold(sanitise(title), output_width()), "", *lines]))


def sanitise(value: object) -> str:
    """A value as safe text: control characters and changes of direction are escaped, except line feeds.

    All other characters stay: no-break spaces, joiners of emoji, and characters that are newer than this Python.
    """
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, dict | list | tuple):
        text = msgspec.json.encode(value).decode()
    else:
        text = "" if value is None else str(value)
    return UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)


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
    plain = not sys.stderr.isatty() or os.environ.get("TERM") == "dumb"  # cannot move the cursor
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=plain) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)

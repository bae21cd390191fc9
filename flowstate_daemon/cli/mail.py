"""The commands `mail preview` and `mail copy`, which write into a folder. They need neither Redis nor Postgres."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event

import click

from flowstate_daemon.base.errors import ConfigError, FlowstateError
from flowstate_daemon.cli.context import load_config
from flowstate_daemon.cli.enqueue import check_choice
from flowstate_daemon.cli.output import json_option, print_json, print_table
from flowstate_daemon.config.loader import Config
from flowstate_daemon.daemon.builders import build_brand
from flowstate_daemon.mail.catalog import load_catalog
from flowstate_daemon.mail.kind_files import COMMON, fingerprint, read_built_in_files
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.preview import preview_mails, render_preview_pages

WATCH_INTERVAL_S = 0.3


@click.group()
def mail() -> None:
    """Preview the emails, and copy their files."""


@mail.command(
    epilog=f"""\b
KIND is one of these, or one of mail.kinds_dir:
  {" ".join(sorted(KINDS)[:5])}
  {" ".join(sorted(KINDS)[5:])}

\b
Example:
  flowstate-daemon mail preview task-reminder --locale fr"""
)
@click.argument("kind", required=False, metavar="[KIND]")
@click.option("--locale", metavar="LANGUAGE", help="One language; default: all.")
@click.option(
    "--output",
    "folder",
    metavar="DIRECTORY",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("mail-preview"),
    show_default=True,
    help="Where to write the files; created if missing.",
)
@click.option("--watch", is_flag=True, help="Write again after every change in mail.kinds_dir, until Ctrl-C.")
@json_option
@click.pass_obj
def preview(
    config_file: str | None, kind: str | None, locale: str | None, folder: Path, *, watch: bool, as_json: bool
) -> None:
    """Write emails with sample data into a folder.

    Without KIND, writes every email in every language: its HTML, its text part, and one page, index.html, that shows
    all of them as in the inbox, on a desktop and on a phone, light and dark. Name, links and sender come from the
    configuration. Nothing is sent.
    """
    config = load_config(config_file)
    write_preview(config, folder, kind=kind, locale=locale, as_json=as_json)
    if watch:
        if config.mail.kinds_dir is None:
            raise click.UsageError("--watch needs mail.kinds_dir (FLOWSTATE_MAIL_KINDS_DIR): the folder that you edit")
        watch_folder(config.mail.kinds_dir, lambda: write_preview(config, folder, kind=kind, locale=locale))


def write_preview(config: Config, folder: Path, *, kind: str | None, locale: str | None, as_json: bool = False) -> None:
    """Write the files and print what was written. Raises ConfigError, UsageError or FlowstateError."""
    catalog = load_catalog(config.mail.kinds_dir, config.mail.default_locale)
    check_choice("KIND", kind, catalog.kinds)
    check_choice("--locale", locale, catalog.locales)
    brand = build_brand(config)
    public_url = config.http.public_url or brand.frontend_url
    previews = preview_mails(brand, public_url, kind=kind, locale=locale, catalog=catalog)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in render_preview_pages(brand, previews):
            (folder / name).write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise FlowstateError(f"{folder}: {error.strerror}; choose another with --output") from error
    rows = [
        (f"{preview.name}.html", preview.html_bytes, preview.text_bytes, preview.mail.subject) for preview in previews
    ]
    if as_json:
        names = ("file", "html_bytes", "text_bytes", "subject")
        mails = [dict(zip(names, row, strict=True)) for row in rows]
        print_json({"index": str(folder / "index.html"), "mails": mails})
        return
    print_table(f"emails: {len(previews)}", ("file", "HTML bytes", "text bytes", "subject"), rows)
    click.echo(f"\nOpen {folder / 'index.html'}")


def watch_folder(folder: Path, write: Callable[[], None]) -> None:
    """Call `write` after every change in the folder, and print the mistakes of the files instead of leaving."""
    click.echo(f"Watching {folder}; Ctrl-C stops")
    seen = fingerprint(folder)
    pause = Event()
    while True:
        pause.wait(WATCH_INTERVAL_S)
        found = fingerprint(folder)
        if found == seen:
            continue
        seen = found
        try:
            write()
        except ConfigError as error:
            click.echo("\n".join(error.errors), err=True)


@mail.command()
@click.argument("kind", metavar="KIND")
@click.argument("folder", metavar="DIRECTORY", type=click.Path(file_okay=False, path_type=Path))
@json_option
def copy(kind: str, folder: Path, *, as_json: bool) -> None:
    """Copy the files of a built-in kind.

    Use them as a starting point: DIRECTORY is a folder for mail.kinds_dir. KIND may also be `common`, the files that
    all kinds share. Existing files are not overwritten.
    """
    check_choice("KIND", kind, [*KINDS, COMMON])
    copied = []
    try:
        for name, file in read_built_in_files().items():
            target = folder / name
            if name.startswith(f"{kind}/") and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(file.text, encoding="utf-8", newline="\n")
                copied.append(str(target))
    except OSError as error:
        raise FlowstateError(f"{folder}: {error.strerror}") from error
    if as_json:
        print_json({"copied": copied})
    else:
        click.echo("\n".join(copied))

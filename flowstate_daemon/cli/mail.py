"""The command `mail preview`: writes emails with sample data into a folder. It needs neither Redis nor Postgres."""

from __future__ import annotations

from pathlib import Path

import click

from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.cli.context import load_config
from flowstate_daemon.cli.enqueue import check_choice
from flowstate_daemon.cli.output import json_option, print_json, print_table
from flowstate_daemon.daemon.bootstrap import build_brand
from flowstate_daemon.mail.catalog import load_catalog
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.preview import preview_mails, render_preview_pages


@click.group()
def mail() -> None:
    """Preview the emails."""


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
@json_option
@click.pass_obj
def preview(config_file: str | None, kind: str | None, locale: str | None, folder: Path, *, as_json: bool) -> None:
    """Write emails with sample data into a folder.

    Without KIND, writes every email in every language: its HTML, its text part, and one page, index.html, that shows
    all of them at desktop and mobile widths. Name, links and sender come from the configuration. Nothing is sent.
    """
    config = load_config(config_file)
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

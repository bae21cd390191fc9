"""The command `config show`: every setting with its value and source, without secrets."""

from __future__ import annotations

import click

from flowstate_daemon.cli.context import load_config
from flowstate_daemon.cli.output import json_option, print_json, print_table
from flowstate_daemon.config.loader import SECTIONS


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command()
@click.argument("section", type=click.Choice(list(SECTIONS)), required=False, metavar="[SECTION]")
@click.option("--changed", is_flag=True, help="Only the settings that differ from their defaults.")
@json_option
@click.pass_obj
def show(config_file: str | None, section: str | None, *, changed: bool, as_json: bool) -> None:
    """Show every setting: its value, and where it comes from.

    SECTION is one part of the settings, such as redis or queue. Secrets are shown as "set, hidden". It connects to
    nothing.
    """
    rows = [
        row
        for row in load_config(config_file).describe()
        if (section is None or row[0].startswith(f"{section}.")) and not (changed and row[2] == "default")
    ]
    if as_json:
        print_json([{"setting": setting, "value": value, "source": source} for setting, value, source in rows])
        return
    print_table(f"settings: {len(rows)}", ("setting", "value", "source"), rows)

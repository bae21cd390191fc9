"""The root of the command line, and the one place where errors become exit codes.

0 done · 1 failed while running · 64 wrong usage · 69 a store is unreachable · 78 wrong configuration · 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import cast

import click

from flowstate_daemon import __version__
from flowstate_daemon.base.errors import ConfigError, FlowstateError, StoreUnavailableError

FAILED, USAGE_ERROR, UNREACHABLE, CONFIG, INTERRUPTED = 1, 64, 69, 78, 130
EXIT_CODES: tuple[tuple[type[FlowstateError], str, int], ...] = (
    (ConfigError, "wrong configuration", CONFIG),
    (StoreUnavailableError, "a store is unreachable", UNREACHABLE),
    (FlowstateError, "failed", FAILED),
)

# What a write says when nobody reads on, or the disk is full.
OUTPUT_CLOSED_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT}

# Where each command lives. Its module is imported when the command is asked for: a health check every few
# seconds must not import the whole package.
COMMANDS = {
    "run": "run",
    "dev": "run",
    "check": "run",
    "health": "health",
    "migrate": "database",
    "enqueue": "enqueue",
    "queue": "queue",
    "provider": "provider",
    "mail": "mail",
    "schedule": "schedule",
    "explain": "database",
    "suppression": "database",
}


class LazyGroup(click.Group):
    """The commands by name, in the order of the table."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return cast("click.Command", getattr(import_module(f"flowstate_daemon.cli.{COMMANDS[name]}"), name))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 failed, 64 wrong usage, 69 a store is unreachable, 78 wrong configuration, "
    "130 interrupted.",
)
@click.version_option(__version__, prog_name="flowstate-daemon")
@click.option(
    "--config",
    "config_file",
    type=click.Path(),
    envvar="FLOWSTATE_CONFIG",
    help="TOML file with settings; the environment wins over it.  [env: FLOWSTATE_CONFIG]",
)
@click.pass_context
def app(context: click.Context, config_file: str | None) -> None:
    """Send FlowState's e-mail from a Bull 4 queue.

    Settings come from the environment (REDIS_URL, RESEND_API_KEY, RESEND_FROM_EMAIL, FLOWSTATE_…) and from a TOML file.

    \b
    First steps:
      flowstate-daemon dev                 everything on this machine, with sample people
      flowstate-daemon mail preview        every mail with sample data, in a folder to look at
      flowstate-daemon check               are configuration, Redis, Postgres and provider right?
      flowstate-daemon run                 work until SIGTERM
      flowstate-daemon queue status        what waits, runs and failed
    """  # noqa: D301 - click wants the character itself: do not fold this paragraph
    context.obj = config_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return app.main(args=arguments, prog_name="flowstate-daemon", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        what, code = ("wrong usage", USAGE_ERROR) if isinstance(error, click.UsageError) else ("failed", FAILED)
        return _error_document(what, [error.format_message()], code, as_json=_wants_json(arguments))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except FlowstateError as error:
        return _print_error(error, as_json=_wants_json(arguments))
    except OSError as error:
        if error.errno not in OUTPUT_CLOSED_ERRORS:
            raise
        # Nobody reads on (`… | head`), or the disk is full; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            click.echo(f"flowstate-daemon: failed\n  - cannot write: {error.strerror}", err=True)
        return FAILED


def _wants_json(arguments: Sequence[str] | None) -> bool:
    return "--json" in (sys.argv[1:] if arguments is None else arguments)


def _print_error(error: FlowstateError, *, as_json: bool) -> int:
    """Tell what went wrong on standard error, and to a program that asked for JSON in a document as well."""
    what, code = next((what, code) for cls, what, code in EXIT_CODES if isinstance(error, cls))
    reasons = list(error.errors) if isinstance(error, ConfigError) else [error.reason]
    click.echo(f"flowstate-daemon: {what}", err=True)
    for reason in reasons:
        click.echo(f"  - {reason}", err=True)
    return _error_document(what, reasons, code, as_json=as_json)


def _error_document(what: str, reasons: list[str], code: int, *, as_json: bool) -> int:
    """The document for a program that asked for one; the exit code."""
    if as_json:
        click.echo(json.dumps({"error": what, "reasons": reasons, "exit_code": code}, indent=2))
    return code

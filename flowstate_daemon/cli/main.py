"""The root of the command line, and the one place where errors become exit codes.

0 success · 1 failed · 64 usage error · 69 datastore unreachable · 78 invalid configuration · 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import cast

import click

from flowstate_daemon import __version__
from flowstate_daemon.base.errors import ConfigError, FlowstateError, StoreUnavailableError
from flowstate_daemon.base.garbage import paused_gc
from flowstate_daemon.base.imports import without

FAILED, USAGE_ERROR, UNREACHABLE, CONFIG, INTERRUPTED = 1, 64, 69, 78, 130
EXIT_CODES: tuple[tuple[type[FlowstateError], str, int], ...] = (
    (ConfigError, "invalid configuration", CONFIG),
    (StoreUnavailableError, "a datastore is unreachable", UNREACHABLE),
    (FlowstateError, "failed", FAILED),
)

CONFIG_PLACE = "--config goes before the command: flowstate-daemon --config FILE COMMAND"

# The errors of a write when the reader has closed the pipe, or the disk is full.
OUTPUT_CLOSED_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT}

DAEMON = "run"

# The module of each command. It is imported only when the command runs: a health check every few seconds must not
# import the whole package.
COMMANDS = {
    DAEMON: "run",
    "dev": "dev",
    "check": "checks",
    "health": "health",
    "status": "status",
    "migrate": "database",
    "enqueue": "enqueue",
    "queue": "queue",
    "provider": "provider",
    "mail": "mail",
    "schedule": "schedule",
    "emails": "emails",
    "explain": "database",
    "suppression": "recipients",
    "unsubscribed": "recipients",
    "forget": "forget",
    "config": "configuration",
    "completion": "completion",
}


class LazyGroup(click.Group):
    """A group that imports the module of a command on first use; commands are listed in the order of COMMANDS."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, which suggests only commands that are already imported."""
        try:
            return super().resolve_command(context, arguments)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=context) from None

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        # The daemon prints no tables and has no green threads, so structlog need not find these packages either.
        with paused_gc(), without("rich", "greenlet") if name == DAEMON else nullcontext():
            return cast("click.Command", getattr(import_module(f"flowstate_daemon.cli.{COMMANDS[name]}"), name))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 success, 1 failed, 64 usage error, 69 datastore unreachable, 78 invalid configuration, "
    "130 interrupted.",
)
@click.version_option(__version__, prog_name="flowstate-daemon")
@click.option(
    "--config",
    "config_file",
    type=click.Path(),
    envvar="FLOWSTATE_CONFIG",
    help="TOML file with settings; the environment takes precedence.  [env: FLOWSTATE_CONFIG]",
)
@click.pass_context
def app(context: click.Context, config_file: str | None) -> None:
    """Send FlowState's emails from a Bull 4 queue.

    Settings come from the environment (REDIS_URL, RESEND_API_KEY, RESEND_FROM_EMAIL, FLOWSTATE_…) and from a TOML file.

    \b
    First steps:
      flowstate-daemon dev                 a complete local environment with sample users
      flowstate-daemon mail preview        every email with sample data, in a folder
      flowstate-daemon check               verify configuration and connectivity
      flowstate-daemon run                 run until SIGTERM
      flowstate-daemon status              health, queue, provider and schedules on one screen
    """  # noqa: D301 - click needs the character \b itself: it keeps the line breaks of the paragraph
    context.obj = config_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return app.main(args=arguments, prog_name="flowstate-daemon", standalone_mode=False) or 0
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name == "--config":
            error = click.UsageError(CONFIG_PLACE, error.ctx)
        error.show()
        what, code = ("usage error", USAGE_ERROR) if isinstance(error, click.UsageError) else ("failed", FAILED)
        return _error_document(what, [error.format_message()], code, as_json=_wants_json(arguments))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except FlowstateError as error:
        return _print_error(error, as_json=_wants_json(arguments))
    except OSError as error:
        if error.errno not in OUTPUT_CLOSED_ERRORS:
            return _print_bug(error, as_json=_wants_json(arguments))
        # The reader closed the pipe (`… | head`), or the disk is full. Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            click.echo(f"flowstate-daemon: failed\n  - cannot write: {error.strerror}", err=True)
        return FAILED
    except Exception as error:  # noqa: BLE001 - an operator gets one line, not a traceback
        return _print_bug(error, as_json=_wants_json(arguments))


def _print_bug(error: Exception, *, as_json: bool) -> int:
    """Print an unexpected error, with its origin, in one line."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return _print_error(
        FlowstateError(f"unexpected {type(error).__name__}: {text}{place}; please report this bug"), as_json=as_json
    )


def _wants_json(arguments: Sequence[str] | None) -> bool:
    return "--json" in (sys.argv[1:] if arguments is None else arguments)


def _print_error(error: FlowstateError, *, as_json: bool) -> int:
    """Print the error on standard error, and with `--json` also a document on standard output."""
    what, code = next((what, code) for cls, what, code in EXIT_CODES if isinstance(error, cls))
    reasons = list(error.errors) if isinstance(error, ConfigError) else [error.reason]
    click.echo(f"flowstate-daemon: {what}", err=True)
    for reason in reasons:
        click.echo(f"  - {reason}", err=True)
    return _error_document(what, reasons, code, as_json=as_json)


def _error_document(what: str, reasons: list[str], code: int, *, as_json: bool) -> int:
    """With `--json`, print the error document. Returns the exit code."""
    if as_json:
        click.echo(json.dumps({"error": what, "reasons": reasons, "exit_code": code}, indent=2))
    return code

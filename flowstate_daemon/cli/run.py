"""The command `run`. What other commands need is not imported here: it would stay in memory for weeks."""

from __future__ import annotations

import faulthandler
import os

import click

from flowstate_daemon.base import logs
from flowstate_daemon.base.garbage import paused_gc
from flowstate_daemon.base.systemd import SystemdEnvironment
from flowstate_daemon.base.terminal import Terminal
from flowstate_daemon.cli.context import run_async
from flowstate_daemon.cli.pid1 import ignore_child_exits
from flowstate_daemon.config.loader import Config, load
from flowstate_daemon.config.sources import config_path
from flowstate_daemon.daemon.daemon import Daemon

STDERR_FD = 2


def configure_logging(config: Config) -> None:
    """Log in the configured format, or to the systemd journal if standard error is connected to it."""
    journal = os.environ.get("JOURNAL_STREAM", "")
    logs.configure(config.log.level, config.log.format, journal=journal, colors=config.log.colors)


@click.command()
@click.pass_obj
def run(config_file: str | None) -> None:
    """Run until SIGTERM.

    Claims jobs, sends their emails and completes them; serves health and metrics over HTTP.

    SIGTERM drains: nothing new is claimed; emails in flight finish, or are released after the shutdown timeout. A
    second SIGTERM releases them at once. Without RESEND_API_KEY it refuses to start, unless FLOWSTATE_DELIVERY=outbox
    asks for emails to be written to the outbox folder instead of being sent.

    SIGHUP reloads the configuration: reloadable settings change, and the log names those that need a restart. An
    invalid configuration changes nothing. When the terminal on which it runs is closed, it drains. Under systemd it
    reports its status and feeds the watchdog.
    """
    # When the watchdog aborts a frozen process, the log gets a traceback of every thread.
    faulthandler.enable(STDERR_FD)
    logs.write_in_background()
    config = load(os.environ, config_path(config_file), sending=True)
    configure_logging(config)
    ignore_child_exits()
    supervisor = SystemdEnvironment.from_environ(os.environ, os.getpid())

    def reload() -> Config:
        return load(os.environ, config_path(config_file), sending=True)

    async def work() -> None:
        with paused_gc():
            daemon = Daemon(config, supervisor=supervisor, load_config=reload, terminal=Terminal())
        await daemon.run()

    run_async(work())

"""The command `check`: verifies configuration and connectivity."""

from __future__ import annotations

import os

import click

from flowstate_daemon.base import logs
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.cli.check.result import CheckResult, ok
from flowstate_daemon.cli.check.runner import CHECKS, exit_code, run_checks
from flowstate_daemon.cli.context import health_endpoint, load_config, name_server, run_async
from flowstate_daemon.cli.health import HealthEndpoint, fetch, find_endpoint, health_url
from flowstate_daemon.cli.output import json_option, print_json, print_table, progress
from flowstate_daemon.config.loader import Config, describe_redis
from flowstate_daemon.config.sources import config_path
from flowstate_daemon.config.unit_settings import REDIS_ADDRESS
from flowstate_daemon.mail.catalog import load_catalog

DEV_TIMEOUT_S = 2.0


def _run_checks(config: Config) -> list[CheckResult]:
    with progress("checking", len(CHECKS)) as done:
        return run_async(run_checks(config, done=done))


@click.command()
@click.option("--config-only", is_flag=True, help="Only verify the configuration; connect to nothing.")
@click.option(
    "--without-credentials",
    is_flag=True,
    help="With --config-only: do not require the API key, where systemd credentials cannot be read.",
)
@json_option
@click.pass_obj
def check(config_file: str | None, *, config_only: bool, without_credentials: bool, as_json: bool) -> int:
    """Verify configuration and connectivity.

    Checks the configuration and this machine, Redis and the queue, Postgres, the provider, the kinds of email and the
    logo. Warnings and failures include a remedy. Sends nothing, changes nothing, takes at most 15 s. It checks the
    settings of `run`. To check the environment of `dev`, first run the line `export …` that `dev` prints.

    Exit codes: 0 ok or warnings only, 69 a datastore or the provider is unreachable, 78 invalid configuration,
    1 any other failure.
    """
    if without_credentials and not config_only:
        raise click.UsageError("--without-credentials needs --config-only")
    try:
        config = load_config(config_file, sending=True, needs=REDIS_ADDRESS, with_credentials=not without_credentials)
    except ConfigError as error:
        raise ConfigError([*error.errors, *([] if config_only else _settings_of_dev(config_file))]) from error
    load_catalog(config.mail.kinds_dir, config.mail.default_locale)
    if not config_only:
        name_server(describe_redis(config))
        config = _beside_dev(config)
    logs.configure("error", config.log.format, colors=config.log.colors)
    results = [ok("configuration", "valid")] if config_only else _run_checks(config)
    if as_json:
        print_json(results)
    else:
        rows = [(result.level.value, result.name, format_check_result(result)) for result in results]
        print_table("Checks for `flowstate-daemon run`:", ("level", "check", "finding → remedy"), rows)
    return exit_code(results)


def _settings_of_dev(config_file: str | None) -> list[str]:
    """Where a developer finds the settings of the daemon that `dev` runs here; nothing if it does not run."""
    try:
        endpoint = find_endpoint(os.environ, config_path(config_file))
    except ConfigError:
        return []  # it is among the errors already
    if not _is_dev(endpoint):
        return []
    url = health_url(endpoint.host, endpoint.port, "ready")
    hint = (
        f"the daemon of `flowstate-daemon dev` at {url} has settings of its own: to check with them, run the line "
        "`export REDIS_URL=…` that it has printed, and then this command again"
    )
    return [hint]


def _beside_dev(config: Config) -> Config:
    """The configuration; that of `dev` if its daemon runs here and nothing is to be sent, which is then no risk."""
    if config.delivery != "outbox" or not _is_dev(health_endpoint(config)):
        return config
    return config.model_copy(update={"is_dev": True})


def _is_dev(endpoint: HealthEndpoint) -> bool:
    return fetch(endpoint, "ready", DEV_TIMEOUT_S).get("is_dev") is True


def format_check_result(result: CheckResult) -> str:
    """The finding and, after an arrow, its remedy."""
    return f"{result.message} → {result.remedy}" if result.remedy else result.message

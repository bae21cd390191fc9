"""The command `health`: queries the health endpoint of the daemon on this machine.

It runs every few seconds beside a busy daemon, so it imports very little, and reads only the settings that it needs,
from the same sources and with the same precedence as the daemon.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import click

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.cli.durations import Duration
from flowstate_daemon.config.sources import FALSE_VALUES, Key, SettingsSources, config_path, env_name
from flowstate_daemon.config.unit_settings import UnitSettings, is_unit_process, read_unit_settings

ENABLED, HOST, PORT = ("http", "enabled"), ("http", "host"), ("http", "port")
DEFAULTS: Mapping[tuple[str, str], Any] = {ENABLED: True, HOST: "127.0.0.1", PORT: 8080}
ENDPOINT_NAMES: Mapping[str, Key] = {env_name(key): key for key in DEFAULTS}
MAX_PORT = 65535
# The address to connect to when the daemon listens on all addresses.
LOOPBACK_FOR = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
MAX_RESPONSE_BYTES = 1_048_576


class HealthEndpoint(NamedTuple):
    """The address to query; with a `reason` when the daemon cannot be queried."""

    host: str
    port: int
    reason: str = ""


@click.command()
@click.option("--ready", is_flag=True, help="Check whether emails can be sent, not only whether the daemon is alive.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(least_s=0.1, most_s=60),
    default="3s",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for the response.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's response as one JSON document.")
@click.pass_obj
def health(config_file: str | None, *, ready: bool, timeout_s: float, as_json: bool) -> int:
    """Check the health of the daemon on this machine.

    It asks the HTTP port in the configuration. A container's HEALTHCHECK can run it without a shell.

    Exit codes: 0 alive (with --ready: ready), 1 not alive or not ready, or no response, 78 invalid configuration.
    """
    unit = UnitSettings() if config_file or is_unit_process(os.environ) else read_unit_settings(ENDPOINT_NAMES)
    unit = unit.without(os.environ, ENDPOINT_NAMES)
    endpoint = find_endpoint({**os.environ, **unit.variables}, config_path(config_file))
    if unit.unreadable:
        remedy = f"using {endpoint.host}:{endpoint.port}; run as root to use the port of the service"
        click.echo(f"flowstate-daemon: {unit.unreadable[0]} cannot be read: {remedy}", err=True)
    document = fetch(endpoint, "ready" if ready else "live", timeout_s)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        warnings = [f"warning: {warning}" for warning in document.get("warnings", ()) if ready]
        click.echo("\n  - ".join([format_status(document), *document["reasons"], *warnings]))
    return 0 if document["status"] == ("ready" if ready else "alive") else 1


def find_endpoint(environ: Mapping[str, str], file: Path | None) -> HealthEndpoint:
    """The address of the daemon. Raises ConfigError when a setting cannot be read."""
    sources = SettingsSources(ENDPOINT_NAMES, whole=False)
    sources.load(environ, file)
    enabled, host, port = (sources.given[key].value if key in sources.given else DEFAULTS[key] for key in DEFAULTS)
    if not str(port).isdecimal() or int(port) > MAX_PORT:
        sources.errors.append(f"{sources.describe_source(PORT)}: not a port; expected a number up to {MAX_PORT}")
    if sources.errors:
        raise ConfigError(sources.errors)
    endpoint = HealthEndpoint(LOOPBACK_FOR.get(host, host), int(port))
    if str(enabled).lower() in FALSE_VALUES:
        return endpoint._replace(reason="HTTP is disabled; set FLOWSTATE_HTTP_ENABLED=true")
    if endpoint.port == 0:
        return endpoint._replace(reason="port 0 means any free port: set FLOWSTATE_HTTP_PORT to a fixed one")
    return endpoint


def health_url(host: str, port: int, check: str) -> str:
    """The URL of a check, `live` or `ready`; an IPv6 address is put in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/health/{check}"


def fetch(endpoint: HealthEndpoint, check: str, timeout_s: float) -> dict[str, Any]:
    """The daemon's response, or a document of the same form that says why there is none."""
    if endpoint.reason:
        return {"status": "unknown", "reasons": [endpoint.reason]}
    url = health_url(endpoint.host, endpoint.port, check)
    connection = HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
    try:
        connection.request("GET", f"/health/{check}")
        document = json.loads(connection.getresponse().read(MAX_RESPONSE_BYTES))
    except (OSError, HTTPException) as error:
        return {"status": "unreachable", "reasons": [f"{url}: {str(error) or type(error).__name__}"]}
    except ValueError:  # also raised for text that is not UTF-8
        document = None
    finally:
        connection.close()
    if isinstance(document, dict) and {"status", "reasons", "instance"} <= document.keys():
        return document
    return {"status": "unknown", "reasons": [f"{url}: another program responds at this address"]}


def format_status(document: Mapping[str, Any]) -> str:
    """The first line of the output: the status and, when a daemon responded, its instance and version."""
    if "instance" not in document:
        return str(document["status"])
    delivery = (
        "" if document.get("delivery", "resend") == "resend" else f", delivery {document['delivery']}: sends nothing"
    )
    return (
        f"{document['status']}: {document['instance']}, version {document['version']}, up {document['uptime_s']} s"
        f"{delivery}"
    )

"""The command `health`: asks the daemon of this machine how it is, for containers, scripts and people.

It runs every few seconds beside a daemon at work, so it imports next to nothing and reads two settings only,
in the same order of strength as the daemon itself.
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
from flowstate_daemon.config.sources import SettingsSources, config_path, env_name

ENABLED, HOST, PORT = ("http", "enabled"), ("http", "host"), ("http", "port")
DEFAULTS: Mapping[tuple[str, str], Any] = {ENABLED: True, HOST: "127.0.0.1", PORT: 8080}
FALSE_VALUES = frozenset({"0", "off", "f", "false", "n", "no"})
MAX_PORT = 65535
# Who listens on every address is asked on the nearest one.
LOOPBACK_FOR = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
MAX_RESPONSE_BYTES = 1_048_576


class HealthEndpoint(NamedTuple):
    """Where the daemon's windows are; a reason instead when it has none that could be found."""

    host: str
    port: int
    reason: str = ""


@click.command()
@click.option("--ready", is_flag=True, help="Ask whether mails can go out, not only whether the daemon is alive.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 60),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as one JSON document.")
@click.pass_obj
def health(config_file: str | None, *, ready: bool, timeout_s: float, as_json: bool) -> int:
    """Ask the daemon on this machine how it is.

    Over HTTP, at the host and port of the same configuration; for a container's HEALTHCHECK it needs no shell.

    Exit codes: 0 alive (with --ready: ready), 1 not, or nobody answers, 78 wrong configuration.
    """
    place = find_endpoint(os.environ, config_path(config_file))
    document = fetch(place, "ready" if ready else "live", timeout_s)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n  - ".join([format_status(document), *document["reasons"]]))
    return 0 if document["status"] == ("ready" if ready else "alive") else 1


def find_endpoint(environ: Mapping[str, str], file: Path | None) -> HealthEndpoint:
    """Where to ask. Raises ConfigError when a setting cannot be read."""
    findings = SettingsSources({env_name(key): key for key in DEFAULTS}, whole=False)
    findings.load(environ, file)
    enabled, host, port = (findings.given[key].value if key in findings.given else DEFAULTS[key] for key in DEFAULTS)
    if not str(port).isdecimal() or int(port) > MAX_PORT:
        findings.errors.append(f"{findings.describe_source(PORT)}: no port; expected a number up to {MAX_PORT}")
    if findings.errors:
        raise ConfigError(findings.errors)
    place = HealthEndpoint(LOOPBACK_FOR.get(host, host), int(port))
    if str(enabled).lower() in FALSE_VALUES:
        return place._replace(reason="HTTP is off: there is nobody to ask; set FLOWSTATE_HTTP_ENABLED=true")
    if place.port == 0:
        return place._replace(reason="port 0 may be any port: set FLOWSTATE_HTTP_PORT to a fixed one")
    return place


def fetch(place: HealthEndpoint, question: str, timeout_s: float) -> dict[str, Any]:
    """The daemon's own answer, or one in its form that says why there is none."""
    where = f"http://{f'[{place.host}]' if ':' in place.host else place.host}:{place.port}/health/{question}"
    if place.reason:
        return {"status": "unknown", "reasons": [place.reason]}
    line = HTTPConnection(place.host, place.port, timeout=timeout_s)
    try:
        line.request("GET", f"/health/{question}")
        document = json.loads(line.getresponse().read(MAX_RESPONSE_BYTES))
    except (OSError, HTTPException) as error:
        return {"status": "unreachable", "reasons": [f"{where}: {str(error) or type(error).__name__}"]}
    except ValueError:  # also a text that is not UTF-8
        document = None
    finally:
        line.close()
    if isinstance(document, dict) and {"status", "reasons", "instance"} <= document.keys():
        return document
    return {"status": "unknown", "reasons": [f"{where}: another program answers there"]}


def format_status(document: Mapping[str, Any]) -> str:
    """The first line for people: the status and, from a daemon, who says so."""
    if "instance" not in document:
        return str(document["status"])
    return f"{document['status']}: {document['instance']}, version {document['version']}, up {document['uptime_s']} s"

"""Checks of the configuration and this machine: links, mode, the HTTP port, the outbox folder."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from pathlib import Path

import aiohttp

from flowstate_daemon.cli.check.result import CheckResult, fail, ok, warn
from flowstate_daemon.cli.health import LOOPBACK_FOR, health_url
from flowstate_daemon.config.loader import Config
from flowstate_daemon.config.risks import describe_schedules, find_risks

CONNECT_TIMEOUT_S = 3.0


async def check_host(config: Config) -> list[CheckResult]:
    """All checks that need no other machine."""
    results = [
        ok("configuration", "valid"),
        *evaluate_settings(config),
        evaluate_mode(config),
        await _check_port(config),
    ]
    if config.delivery == "outbox":
        results.append(await asyncio.to_thread(evaluate_outbox_folder, config.outbox.folder))
    return results


def evaluate_settings(config: Config) -> list[CheckResult]:
    """A warning for each valid setting with which emails go wrong. Delivery is a line of the provider's. Pure."""
    risks = [risk for risk in find_risks(config) if risk.name != "delivery"]
    found = [warn(risk.name, risk.finding, risk.remedy) for risk in risks]
    return [*found, ok("schedules", describe_schedules(config))]


def evaluate_mode(config: Config) -> CheckResult:
    """Warn in shadow mode, which sends no emails. Pure."""
    if config.queue.mode == "shadow":
        text = "shadow: observes another worker, sends nothing, claims nothing, runs no schedules"
        return warn("mode", text, "see docs/takeover.md; set FLOWSTATE_MODE=send to send emails")
    return ok("mode", "send" if config.delivery == "resend" else "send, to the outbox folder only")


async def _check_port(config: Config) -> CheckResult:
    """Whether the daemon can bind its port, or a running daemon already has."""
    name, address = "http port", f"{config.http.host}:{config.http.port}"
    if not config.http.enabled:
        return ok(name, "http.enabled is false: no health checks, no metrics")
    error_number = await asyncio.to_thread(_try_bind, config.http.host, config.http.port)
    if error_number is None:
        return ok(name, f"{address} is free")
    if error_number == errno.EADDRINUSE:
        daemon = await _describe_daemon(config)
        if daemon is not None:
            return ok(name, f"{address} is used by a running daemon: {daemon}")
        return fail(name, f"{address} is used by another program", "stop it, or set FLOWSTATE_HTTP_PORT")
    return fail(name, f"{address}: {os.strerror(error_number)}", "set FLOWSTATE_HTTP_HOST and FLOWSTATE_HTTP_PORT")


def _try_bind(host: str, port: int) -> int | None:
    """Bind and close again; the errno when that fails."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno
    return None


async def _describe_daemon(config: Config) -> str | None:
    """Instance, version and status of the daemon that uses the port; None when another program does."""
    url = health_url(LOOPBACK_FOR.get(config.http.host, config.http.host), config.http.port, "live")
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONNECT_TIMEOUT_S)) as session,
            session.get(url) as response,
        ):
            document = json.loads(await response.text())
            return f"instance {document['instance']}, version {document['version']}, {document['status']}"
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return None


def evaluate_outbox_folder(folder: Path) -> CheckResult:
    """Whether emails can be written there. The folder need not exist: its nearest existing parent is checked."""
    existing = folder.resolve()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return ok("outbox", f"emails are written to {folder.resolve()}")
    remedy = "set FLOWSTATE_OUTBOX_FOLDER to a folder that the daemon's user can write to"
    return fail("outbox", f"{folder.resolve()} is not writable", remedy)

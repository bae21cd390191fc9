"""What `check` says of this machine: links, the HTTP port, the outbox folder."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from flowstate_daemon.cli.check.result import CheckResult, fail, ok, warn
from flowstate_daemon.config.loader import Config

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
LOOPBACK_FOR = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- read, not bound: where to knock instead
CONNECT_TIMEOUT_S = 3.0


async def check_host(config: Config) -> list[CheckResult]:
    """Everything that can be seen from here."""
    found = [evaluate_links(config), evaluate_mode(config), await _port(config)]
    if config.resend.api_key is None:
        found.append(await asyncio.to_thread(evaluate_outbox_folder, config.outbox.folder))
    return found


def evaluate_links(config: Config) -> CheckResult:
    """A configuration without mistakes may still send links that work on the developer's machine only. Pure."""
    host = urlsplit(config.mail.frontend_url).hostname
    if config.resend.api_key is not None and host in LOCAL_HOSTS:
        text = f"links in real mails will lead to {config.mail.frontend_url}"
        return warn("configuration", text, "set FRONTEND_URL to where people reach FlowState")
    return ok("configuration", "complete")


def evaluate_mode(config: Config) -> CheckResult:
    """Nobody should wonder why no mail leaves. Pure."""
    if config.queue.mode == "shadow":
        text = "shadow: looks on beside another worker, sends nothing, claims nothing, runs no schedules"
        return warn("mode", text, "docs/takeover.md tells what to look at; FLOWSTATE_MODE=send when it is time")
    return ok("mode", "send")


async def _port(config: Config) -> CheckResult:
    """Whether the daemon could bind its port, or has bound it already."""
    subject, place = "http port", f"{config.http.host}:{config.http.port}"
    if not config.http.enabled:
        return ok(subject, "http.enabled is false: no health, no metrics")
    number = await asyncio.to_thread(_bind, config.http.host, config.http.port)
    if number is None:
        return ok(subject, f"{place} is free")
    if number == errno.EADDRINUSE:
        daemon = await _daemon_at(config)
        if daemon is not None:
            return ok(subject, f"{place} is held by a running daemon: {daemon}")
        return fail(subject, f"{place} is taken by another program", "stop it, or set FLOWSTATE_HTTP_PORT")
    return fail(subject, f"{place}: {os.strerror(number)}", "set FLOWSTATE_HTTP_HOST and FLOWSTATE_HTTP_PORT")


def _bind(host: str, port: int) -> int | None:
    """Bind and let go again; the error's number when that is refused."""
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


async def _daemon_at(config: Config) -> str | None:
    """Who answers there, if it answers as a daemon of ours does."""
    host = LOOPBACK_FOR.get(config.http.host, config.http.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.http.port}/health/live"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONNECT_TIMEOUT_S)) as session,
            session.get(url) as answer,
        ):
            output = json.loads(await answer.text())
            return f"instance {output['instance']}, version {output['version']}, {output['status']}"
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return None


def evaluate_outbox_folder(folder: Path) -> CheckResult:
    """Whether mails could be written there; the folder need not exist yet."""
    place = folder.resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return ok("outbox", f"mails go to {folder.resolve()}")
    remedy = "set FLOWSTATE_OUTBOX_FOLDER to a folder that the daemon's user may write to"
    return fail("outbox", f"{folder.resolve()} cannot be written to", remedy)

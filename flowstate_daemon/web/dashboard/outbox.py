"""The emails that were written to the outbox folder instead of being sent: for development."""

from __future__ import annotations

import asyncio
import email
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from pathlib import Path

from aiohttp import web

from flowstate_daemon.web.dashboard.emails import FRAME_HEADERS
from flowstate_daemon.web.dashboard.guard import Guard
from flowstate_daemon.web.dashboard.rendering import ROOT, PageRenderer, Viewer

MAX_SHOWN = 200
MAX_FILE_BYTES = 10_000_000
FILE_NAME = re.compile(r"[0-9a-f]{32}\.eml")
UNSHOWN_HEADERS = {"content-type", "mime-version", "content-transfer-encoding"}


@dataclass(frozen=True, slots=True)
class OutboxMail:
    """One file of the folder, read as an email."""

    name: str
    written_at: datetime
    subject: str
    to: str = field(repr=False)
    kind: str
    headers: tuple[tuple[str, str], ...] = ()
    html: str = field(default="", repr=False)
    text: str = field(default="", repr=False)


class OutboxPages:
    """`/dashboard/outbox`. Its emails contain codes, and it exists only where nothing is sent."""

    def __init__(self, folder: Path, guard: Guard, pages: PageRenderer) -> None:
        self._folder = folder
        self._guard = guard
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(f"{ROOT}/outbox", self._guard.page(self.list)),
            web.get(f"{ROOT}/outbox/{{name}}", self._guard.page(self.show)),
            web.get(f"{ROOT}/outbox/{{name}}/html", self._guard.page(self.frame)),
        ]

    async def list(self, _request: web.Request, viewer: Viewer) -> web.StreamResponse:
        mails = await asyncio.to_thread(lambda: list(read_newest(self._folder)))
        return self._pages.page("outbox.html", viewer, active="outbox", mails=mails, folder=str(self._folder))

    async def show(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        mail = await self._read(request)
        if mail is None:
            return self._guard.not_found(request, viewer, self._pages.text(viewer.locale, "outbox.gone"))
        return self._pages.page("outbox_mail.html", viewer, active="outbox", mail=mail)

    async def frame(self, request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        mail = await self._read(request)
        html = "" if mail is None else mail.html
        return web.Response(text=html, headers=FRAME_HEADERS, content_type="text/html", charset="utf-8")

    async def _read(self, request: web.Request) -> OutboxMail | None:
        name = request.match_info["name"]
        if not FILE_NAME.fullmatch(name):
            return None
        return await asyncio.to_thread(read_mail, self._folder / name)


def read_newest(folder: Path) -> Iterator[OutboxMail]:
    """The newest emails of the folder, the newest first."""
    found = []
    for path in folder.glob("*.eml") if folder.is_dir() else ():
        try:
            found.append((path.stat().st_mtime_ns, path))
        except OSError:
            continue  # removed since it was listed
    for _, path in sorted(found, reverse=True)[:MAX_SHOWN]:
        mail = read_mail(path, headers_only=True)
        if mail is not None:
            yield mail


def read_mail(path: Path, *, headers_only: bool = False) -> OutboxMail | None:
    """One file as an email; None when it is gone, too large, or not readable."""
    try:
        status = path.stat()
        if status.st_size > MAX_FILE_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    if headers_only:
        content = content.partition(b"\r\n\r\n")[0]
    message = email.message_from_bytes(content, policy=policy.default)
    return OutboxMail(
        path.name,
        datetime.fromtimestamp(status.st_mtime, UTC),
        str(message.get("Subject", "")),
        str(message.get("To", "")),
        str(message.get("X-Flowstate-Kind", "")),
        tuple((name, str(value)) for name, value in message.items() if name.lower() not in UNSHOWN_HEADERS),
        "" if headers_only else _body(message, "html"),
        "" if headers_only else _body(message, "plain"),
    )


def _body(message: EmailMessage, kind: str) -> str:
    part = message.get_body(preferencelist=(kind,))
    content = None if part is None else part.get_content()
    return content if isinstance(content, str) else ""

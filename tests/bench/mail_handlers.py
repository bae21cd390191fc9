"""What the handlers of the Python peers do: nothing, or render the email as the daemon does and send it.

An email goes out alone, the usual way, or with up to 99 others that are being handled at the same time. Both wait and
repeat the request when the provider's rate limit refuses it.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from flowstate_daemon.mail.kinds import parse_request
from tests.support.mail_samples import RENDERER

HEADERS = {
    "Authorization": "Bearer re_Fake0000_abcdefghijklmnop",
    "Content-Type": "application/json",
    "User-Agent": "bench",
}
BATCH_SIZE = 100
BATCH_WAIT_S = 0.05
TOO_MANY = 429


def render(job: dict[str, Any]) -> bytes:
    """Parse and render the email of a job with the daemon's own code; returns the provider's JSON."""
    request = parse_request(job["type"], msgspec.json.encode({"to": job["to"], "context": job["context"]}))
    email = RENDERER.render(request)
    return msgspec.json.encode(
        {
            "from": email.sender,
            "to": [email.to],
            "subject": email.subject,
            "html": email.html,
            "text": email.text,
            "headers": email.headers,
            "tags": [{"name": name, "value": value} for name, value in email.tags.items()],
        }
    )


def _request(encoded: list[bytes]) -> tuple[str, bytes]:
    if len(encoded) == 1:
        return "/emails", encoded[0]
    return "/emails/batch", b"[%b]" % b",".join(encoded)


class AsyncMailer:
    """For peers whose handlers are coroutines."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, job: dict[str, Any]) -> None:
        if job["mode"] == "single":
            await self._post([render(job)])
            return
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((render(job), sent))
        if len(self._waiting) >= BATCH_SIZE:
            self._flush()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(BATCH_WAIT_S, self._flush)
        await sent

    def _flush(self) -> None:
        members, self._waiting = self._waiting[:BATCH_SIZE], self._waiting[BATCH_SIZE:]
        if members:
            task = asyncio.create_task(self._send_batch(members))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_batch(self, members: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        await self._post([encoded for encoded, _ in members])
        for _, sent in members:
            sent.set_result(None)

    async def _post(self, encoded: list[bytes]) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(self._url)
        path, body = _request(encoded)
        while True:
            async with self._session.post(path, data=body, headers=HEADERS) as response:
                await response.read()
                if response.status != TOO_MANY:
                    response.raise_for_status()
                    return
            await asyncio.sleep(float(response.headers.get("retry-after", "1")))


class ThreadMailer:
    """For peers whose handlers run in threads."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._waiting: list[tuple[bytes, Future[None]]] = []

    def send(self, job: dict[str, Any]) -> None:
        if job["mode"] == "single":
            self._post([render(job)])
            return
        encoded, sent = render(job), Future[None]()
        with self._lock:
            self._waiting.append((encoded, sent))
            members = self._take() if len(self._waiting) >= BATCH_SIZE else []
        self._send_batch(members)
        try:
            sent.result(BATCH_WAIT_S)
        except TimeoutError:
            with self._lock:
                members = self._take()
            self._send_batch(members)
            sent.result()

    def _take(self) -> list[tuple[bytes, Future[None]]]:
        members, self._waiting = self._waiting[:BATCH_SIZE], self._waiting[BATCH_SIZE:]
        return members

    def _send_batch(self, members: list[tuple[bytes, Future[None]]]) -> None:
        if members:
            self._post([encoded for encoded, _ in members])
            for _, sent in members:
                sent.set_result(None)

    def _post(self, encoded: list[bytes]) -> None:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port)
        path, body = _request(encoded)
        while True:
            self._local.connection.request("POST", path, body, HEADERS)
            response = self._local.connection.getresponse()
            response.read()
            if response.status != TOO_MANY:
                assert response.status == http.client.OK, response.status
                return
            time.sleep(float(response.headers.get("retry-after", "1")))

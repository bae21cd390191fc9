"""A strict fake of Resend's API on loopback, and the record of what it accepted.

In a test: `async with FakeResend() as fake`, then `fake.url`, `fake.api_key`, `fake.accepted`, `fake.script`.
As a process: `python -m tests.support.fake_resend --port 0 --journal FILE` prints its address, then serves.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import uvloop
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from tests.support.resend_api import API_KEY, AcceptedMail, Answer, ReceivedRequest, ResendApi, error

__all__ = ["API_KEY", "AcceptedMail", "Answer", "FakeResend", "ReceivedRequest", "error"]

DEFAULT_ANSWER = Answer()
When = Callable[[ReceivedRequest], bool]


@dataclass(slots=True)
class Scripted:
    answer: Answer
    when: When
    times: int | None


class FakeResend(ResendApi):
    """The API, served over HTTP, with scripted answers in front of it."""

    def __init__(self, *, rate: int | None = None, clock: Clock | None = None, journal: Path | None = None) -> None:
        super().__init__(rate=rate, clock=clock)
        self.url = ""
        self.requests: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()
        self.connections = 0
        self._peers: set[object] = set()
        self._scripted: list[Scripted] = []
        self._journal_path = journal
        self._runner: web.AppRunner | None = None

    async def start(self, *, host: str = "127.0.0.1", port: int = 0, keepalive_s: float = 60.0) -> None:
        if self._journal_path is not None:
            self.journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=0.1,
            keepalive_timeout=keepalive_s,
            handler_cancellation=False,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self.journal is not None:
            os.close(self.journal)
            self.journal = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def script(self, *answers: Answer, when: When | None = None, times: int | None = 1) -> None:
        """Use each answer for the next `times` requests that match `when`, in order; None: for all of them."""
        self._scripted += [Scripted(answer, when or (lambda _: True), times) for answer in answers]

    def unscript(self) -> None:
        self._scripted.clear()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self._count(request)
        came = self.clock.now_ms()
        incoming = ReceivedRequest(
            request.method,
            request.path,
            request.headers.get("Idempotency-Key"),
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
            came,
        )
        plan = self._plan(incoming)
        answer = plan
        if plan.status is None or plan.accept:
            answer = await self.work(incoming, plan.delay_s)
        else:
            await self._gate.wait()
            await asyncio.sleep(plan.delay_s)
        if plan.status is not None:
            answer = plan
        self.answered[answer.status or 0] += 1
        return await self._reply(request, answer, plan)

    def _count(self, request: web.Request) -> None:
        """Count the request, and its connection if it is new."""
        self.requests[f"{request.method} {request.path}"] += 1
        peer = (request.transport.get_extra_info("peername") if request.transport else None) or object()
        if peer not in self._peers:
            self._peers.add(peer)
            self.connections += 1

    def _plan(self, incoming: ReceivedRequest) -> Answer:
        for scripted in self._scripted:
            if scripted.when(incoming):
                if scripted.times is not None:
                    scripted.times -= 1
                    if not scripted.times:
                        self._scripted.remove(scripted)
                return scripted.answer
        return DEFAULT_ANSWER

    async def _reply(self, request: web.Request, answer: Answer, plan: Answer) -> web.StreamResponse:
        if plan.drop and request.transport is not None:
            request.transport.abort()
        content = answer.content
        if not plan.cut:
            return web.Response(status=answer.status or 200, body=content, headers={**answer.headers, **plan.headers})
        response = web.StreamResponse(status=answer.status or 200, headers={**answer.headers, **plan.headers})
        response.content_length = max(2, len(content))
        await response.prepare(request)
        await response.write(content[: len(content) // 2] or b"{")
        if request.transport is not None:
            request.transport.close()
        return response


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    fake = FakeResend(rate=arguments.rate, journal=arguments.journal)
    fake.api_key, fake.latency_s = arguments.api_key, arguments.latency_ms / 1000
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await fake.start(host=arguments.host, port=arguments.port)
    sys.stdout.write(f"{fake.url}\n")
    sys.stdout.flush()
    await ended.wait()
    await fake.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake of Resend's API on loopback")
    parser.add_argument("--host", default="127.0.0.1", help="in a container of its own, 0.0.0.0")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--journal",
        type=Path,
        help="append every accepted email, without its body, to this file, one JSON object per line",
    )
    parser.add_argument("--rate", type=int, help="requests per second (no limit when absent)")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--api-key", default=API_KEY)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

"""Users that lack a command, servers that are no Redis or a strict one: readable lines, never a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import hiredis
import pytest

from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.redis_client.connection import Connection
from tests.process.conftest import MakeDaemon
from tests.support.waiting import eventually

COMMANDS = (
    ("check",),
    ("queue", "status"),
    ("queue", "list", "wait"),
    ("queue", "show", "1"),
    ("enqueue", "welcome", "--to", "ada@example.org", "--context", '{"name": "Ada"}'),
    ("provider", "status"),
)
GREETINGS = {
    "http": (b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", b""),
    "smtp": (b"220 mail.example.org ESMTP\r\n", b"502 5.5.2 Error: command not recognized\r\n"),
    "mysql": (b"J\x00\x00\x00\x0a8.0.36\x00", b""),
    "memcached": (b"", b"ERROR\r\n"),
    "agreeable": (b"", b"+OK\r\n"),
    "numbers": (b"", b":7\r\n"),
    "endless": (b"", b"*1000000\r\n"),
    "closing": (b"", b""),
}


@asynccontextmanager
async def server(greeting: bytes, answer: bytes) -> AsyncIterator[str]:
    """The URL of a server that sends `greeting`, then `answer` for each line it reads; without one it hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        try:
            while line := await reader.readline():
                if not answer:
                    break
                if line.startswith(b"*"):  # one answer for each command
                    writer.write(answer)
                    await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def command(url: str, *arguments: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowstate_daemon", *arguments,
        env={"PATH": os.environ["PATH"], "REDIS_URL": url, "RESEND_FROM_EMAIL": "hello@flowstate.example"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode(), errors.decode()


def assert_readable(code: int, output: str, errors: str, what: object) -> None:
    assert "Traceback" not in output + errors, (what, errors)
    assert code in (1, 69, 78), (what, code, output, errors)
    assert len(errors.splitlines()) <= 4, (what, errors)
    json.loads(output)


@pytest.mark.parametrize("kind", GREETINGS)
async def test_server_that_is_no_redis(make_daemon: MakeDaemon, kind: str) -> None:
    """Each command prints a document with the reason; `run` waits, and ready says why."""
    async with server(*GREETINGS[kind]) as url, make_daemon(REDIS_URL=url) as daemon:
        results = await asyncio.gather(*(command(url, *words, "--json") for words in COMMANDS[:3]))
        for words, (code, output, errors) in zip(COMMANDS, results, strict=False):
            assert_readable(code, output, errors, (kind, words))

        async def red() -> bool:
            status, body = await daemon.look("/health/ready")
            return status == 503 and "Redis: " in body

        await eventually(red, "ready says why")
        assert daemon.process is not None
        assert daemon.process.returncode is None
        assert "Traceback" not in daemon.log_text()


@pytest.mark.parametrize(
    "lacking",
    [
        "eval",
        "evalsha",
        "hset",
        "zadd",
        "lpush",
        "publish",
        "get",
        "blmove",
        "subscribe",
        "set",
        "info",
        "ping",
        "type",
    ],
)
async def test_redis_user_that_lacks_a_command(make_daemon: MakeDaemon, lacking: str) -> None:
    """No command shows a traceback; `run` waits for the permission and then works."""
    async with EmbeddedValkey() as store:
        admin = Connection(store.url, client_name="test")
        rules = ("on", ">word", "~*", "&*", "+@all")
        await admin.execute("ACL", "SETUSER", "hosted", *rules, f"-{lacking}")
        url = store.url.replace("//", "//hosted:word@")
        async with make_daemon(REDIS_URL=url) as daemon:
            results = await asyncio.gather(*(command(url, *words, "--json") for words in COMMANDS))
            for words, (_, output, errors) in zip(COMMANDS, results, strict=True):
                assert "Traceback" not in output + errors, (words, errors)
                assert len(errors.splitlines()) <= 4, (words, errors)
                json.loads(output)
            await admin.execute("ACL", "SETUSER", "hosted", *rules)
            await daemon.ready()
            assert "Traceback" not in daemon.log_text()
        await admin.close()


UNDECLARED = b"-ERR script tried accessing undeclared key, key: bull:email:id\r\n"


class StrictServer:
    """In front of a Redis: while `strict`, it refuses scripts, with Dragonfly's message about undeclared keys."""

    def __init__(self, store: EmbeddedValkey) -> None:
        self._store = store
        self.strict = True

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with listening:
            yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    async def _serve(self, client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader, store = await asyncio.open_connection(*self._store.url.removeprefix("redis://").split(":"))
        commands = hiredis.Reader(encoding=None)

        async def forward() -> None:
            while data := await client.read(65536):
                commands.feed(data)
                while (words := commands.gets()) is not False:
                    if self.strict and words[0].upper() in (b"EVAL", b"EVALSHA"):
                        writer.write(UNDECLARED)
                    else:
                        store.write(hiredis.pack_command(tuple(words)))

        async def answer() -> None:
            while data := await reader.read(65536):
                writer.write(data)

        ways = asyncio.create_task(forward()), asyncio.create_task(answer())
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            with suppress(OSError):
                store.close()
                writer.close()


async def test_server_that_refuses_undeclared_keys(make_daemon: MakeDaemon) -> None:
    """Each command and the daemon's health say what to do; `run` waits, and works once the server allows them."""
    async with EmbeddedValkey() as store:
        server = StrictServer(store)
        async with server.listen() as url, make_daemon(REDIS_URL=url) as daemon:
            results = await asyncio.gather(*(command(url, *words, "--json") for words in COMMANDS))
            for words, (_, output, errors) in zip(COMMANDS, results, strict=True):
                assert "Traceback" not in output + errors, (words, errors)
                json.loads(output)
            assert "allow-undeclared-keys" in results[4][1]  # of `enqueue`, which runs a script

            async def explained() -> bool:
                status, body = await daemon.look("/health/ready")
                return status == 503 and "allow-undeclared-keys" in body

            await eventually(explained, "ready says why")
            server.strict = False
            await daemon.ready()
            assert "Traceback" not in daemon.log_text()

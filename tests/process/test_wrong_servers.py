"""A Redis user that lacks a command, and servers that are no Redis: readable lines and documents, never a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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

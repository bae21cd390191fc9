"""An HTTP proxy on loopback: forwards plain requests, answers CONNECT with a status, and records both."""

from __future__ import annotations

import asyncio
from typing import Self


class HttpProxy:
    """`seen` has the first line and the Proxy-Authorization header of each request."""

    def __init__(self, target: int, *, connect_status: int = 503) -> None:
        self.seen: list[tuple[str, str]] = []
        self._target = target
        self._connect_status = connect_status
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        login = next((line for line in lines if line.lower().startswith("proxy-authorization:")), "")
        self.seen.append((lines[0], login.partition(":")[2].strip()))
        if lines[0].startswith("CONNECT"):
            writer.write(f"HTTP/1.1 {self._connect_status} No\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            length = next(int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:"))
            body = await reader.readexactly(length)
            kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
            method, url, version = kept[0].split(" ")
            kept[0] = f"{method} /{url.split('/', 3)[3]} {version}"
            kept.insert(1, "Connection: close")
            upstream, sink = await asyncio.open_connection("127.0.0.1", self._target)
            sink.write("\r\n".join(kept).encode() + body)
            writer.write(await upstream.read())
            sink.close()
        writer.close()

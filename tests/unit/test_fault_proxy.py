"""The proxy that injects network faults must not fail itself: chaos rounds would end with it."""

from __future__ import annotations

import asyncio

from tests.support.proxy import FaultProxy, reset
from tests.support.waiting import eventually


async def test_connections_that_the_client_has_reset_are_forgotten_too() -> None:
    """A link that holds back a reply stays for a while after the client is gone."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"held back")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        proxy.freeze()
        _, writer = await asyncio.open_connection(proxy.host, proxy.port)
        await eventually(lambda: proxy.open_connections == 1, "the proxy has accepted")
        (link,) = proxy._links.values()
        await eventually(lambda: len(link) == 2, "the proxy has connected to the server")
        reset(writer)
        await eventually(lambda: link[0].get_extra_info("socket").fileno() < 0, "the proxy has closed its side")
        assert proxy.open_connections == 1
        await proxy.forget()

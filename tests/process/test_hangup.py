"""SIGHUP on a terminal: sent by an operator it reloads; when the terminal is closed, the daemon drains and ends."""

from __future__ import annotations

import asyncio
import os
import pty
import signal

from tests.process.conftest import MakeDaemon
from tests.support.waiting import eventually


async def test_sighup_on_a_terminal_reloads(make_daemon: MakeDaemon) -> None:
    """As the documentation says, also twice, and the daemon goes on."""
    master, slave = pty.openpty()
    async with make_daemon(terminal=slave) as daemon:
        await daemon.ready()
        for count in (1, 2):
            daemon.send(signal.SIGHUP)
            await eventually(lambda count=count: len(daemon.events("reloaded")) == count, "reloaded")
        await asyncio.sleep(1.5)  # a fixed time, because nothing may happen during it
        assert await daemon.is_ready()
        assert not daemon.events("draining")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    os.close(slave)
    os.close(master)


async def test_closed_terminal_drains_the_daemon(make_daemon: MakeDaemon) -> None:
    """The kernel sends SIGHUP when the terminal is closed: the daemon stops in order, and does not reload."""
    master, slave = pty.openpty()
    async with make_daemon(terminal=slave) as daemon:
        await daemon.ready()
        os.close(slave)
        os.close(master)
        assert await daemon.ended() == 0
        assert daemon.events("draining")
        assert not daemon.events("reloaded")


async def test_terminal_closed_shortly_after_sighup_drains_the_daemon(make_daemon: MakeDaemon) -> None:
    """A shell may pass the signal on before the terminal is closed."""
    master, slave = pty.openpty()
    async with make_daemon(terminal=slave) as daemon:
        await daemon.ready()
        daemon.send(signal.SIGHUP)
        os.close(slave)
        os.close(master)
        assert await daemon.ended() == 0
        assert daemon.events("stopped")

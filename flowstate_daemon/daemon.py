"""The one place that builds the house: stores, provider, engine and windows, opened and closed in order.

The command line calls it; nothing imports it from below.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import structlog

from flowstate_daemon import __version__
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config
from flowstate_daemon.base.errors import Outage
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendSettings
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.lease import Lease
from flowstate_daemon.queue.repeat import Repeats
from flowstate_daemon.queue.signals import Signals
from flowstate_daemon.web.app import Web
from flowstate_daemon.work.engine import Engine, EngineSettings, Instruments
from flowstate_daemon.work.lane import Lane
from flowstate_daemon.work.sender import Sender

log = structlog.get_logger()

LONGEST_REST_S = 5.0


class House:
    """One daemon: built from a configuration, run once, closed in the reverse order."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.vitals = Vitals(self.clock)
        self.metrics = Metrics()
        self.keys = Keys(config.queue.prefix, config.queue.name)
        token = f"{config.queue.instance_id}/{uuid.uuid4().hex}"
        self._client_name = f"{self.keys.client_name}:{token}"
        self.connection = Connection(
            config.redis.url.get_secret_value(), client_name=self._client_name, block_s=config.redis.block_s
        )
        self.bull = Bull(
            self.connection,
            self.keys,
            self.clock,
            token=token,
            lock_ms=config.queue.lock_ms,
            max_data_bytes=config.queue.max_data_bytes,
            repeats=Repeats(self.connection, self.keys, self.clock, token=token),
        )
        self.lease = Lease(
            self.connection,
            self.keys,
            self.clock,
            instance_id=config.queue.instance_id,
            token=token,
            client_name=self._client_name,
        )
        self.signals = Signals(self.connection, self.keys)
        self.gateway = build_gateway(config, self.metrics)
        self.web = Web(config.http, self.vitals, self.metrics, Inspector(self.connection, self.keys), self.clock)
        self.engine = self._build_engine()

    def _build_engine(self) -> Engine:
        queue = self.config.queue
        lane = Lane(self.vitals, self.clock)
        mail = self.config.mail
        renderer = Renderer(Brand(mail.from_address, mail.app_name, mail.frontend_url))
        sender = Sender(self.keys, renderer, self.gateway, lane)
        settings = EngineSettings(
            concurrency=queue.concurrency,
            lock_ms=queue.lock_ms,
            stalled_interval_ms=queue.stalled_interval_ms,
            max_stalled=queue.max_stalled,
            jitter=queue.jitter,
            drain_s=queue.drain_s,
        )
        instruments = Instruments(self.vitals, self.metrics, self.clock)
        return Engine(self.bull, self.signals, self.lease, sender.perform, lane, settings, instruments)

    async def run(self) -> None:
        """Open, work until told to stop, drain, close. Raises ConfigError, LeaseTaken, or what a loop raised."""
        async with AsyncExitStack() as opened:
            # Windows first: whoever watches must see why the house is not ready yet.
            await self.web.open()
            opened.push_async_callback(self.web.close)
            opened.push_async_callback(self.connection.close)
            await self.gateway.open()
            opened.push_async_callback(self.gateway.close)
            with self._signals_obeyed():
                if not await self._store_reached():
                    return
                await self.lease.acquire()
                opened.push_async_callback(self._lease_returned)
                self.web.opened()
                log.info("ready", version=__version__, queue=self.keys.base, instance=self.config.queue.instance_id)
                await self.engine.run()
                self.web.closing()
        log.info("stopped")

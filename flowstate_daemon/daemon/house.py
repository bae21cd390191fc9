"""The life of the house: stores, provider, engine and windows, opened and closed in order.

The command line calls it; nothing below imports it.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog

from flowstate_daemon import __version__
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config
from flowstate_daemon.base.errors import FlowstateError, Outage
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.systemd import Supervisor
from flowstate_daemon.daemon.building import Building
from flowstate_daemon.daemon.reload import Reloader
from flowstate_daemon.daemon.shadowing import in_its_mode
from flowstate_daemon.database.migrate import Migrator
from flowstate_daemon.database.pool import opened as open_up
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.server import settle_in_cluster

log = structlog.get_logger()

FIRST_REST_S = 0.1
LONGEST_REST_S = 5.0
LAST_CALL_S = 2.0
COLLECT_AFTER = (5_000, 5, 1_000)
SETTLING_S = 2.0  # codes wait for nobody
OBEYED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class House:
    """One daemon, built from a configuration. `run()` it once."""

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        *,
        supervisor: Supervisor | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        """`reread` reads the configuration again on SIGHUP; without it SIGHUP stops, as a closed terminal should."""
        self.built = Building(config, clock, supervisor)
        self._reloader = None if reread is None else Reloader(self.built, lambda: in_its_mode(reread()))

    async def run(self) -> None:
        """Open, work until told to stop, drain, close.

        Raises:
            ConfigError: the HTTP address cannot be bound, or the Redis is a cluster that would spread the queue.
            LeaseTaken: another daemon runs under this instance id.
            LoopBug: a loop had a bug; a supervisor should start the house again.
        """
        async with AsyncExitStack() as opened:
            # First in and last out: systemd waits for us as long as anything is open.
            await opened.enter_async_context(self._supervised())
            opened.push_async_callback(self.built.connection.close)
            if self.built.pool is not None:
                await opened.enter_async_context(open_up(self.built.pool))
            if self.built.people is not None:
                opened.push_async_callback(self.built.people.close)
            if self.built.leaves is not None:
                opened.push_async_callback(self.built.leaves.close)
            # Windows first: whoever watches must see why the house is not ready yet.
            if self.built.config.http.enabled:
                await self.built.web.open()
                opened.push_async_callback(self.built.web.close)
            if self.built.shadow is None:
                await self.built.gateway.open()
                opened.push_async_callback(self.built.gateway.close)
            with self._obeying_signals():
                await self._work()
        log.info("stopped")

    @asynccontextmanager
    async def _supervised(self) -> AsyncIterator[None]:
        """Beside the house: systemd hears how it is, and SIGHUP is obeyed."""
        notifier = self.built.notifier
        notifier.open()
        try:
            async with beside([notifier] if self._reloader is None else [notifier, self._reloader]):
                yield
        except FlowstateError as error:
            notifier.fell(error.reason)
            raise
        finally:
            notifier.close()

    async def _work(self) -> None:
        self.built.vitals.raise_condition("start", "Redis has not been reached yet")
        if not await self.built.engine.unless_stopped(self._begun()):
            return
        provider = "none: a shadow sends nothing"
        if self.built.shadow is None:
            await self._settled_in()
            self._say_what_is_off()
            provider = self.built.gateway.name
        self.built.vitals.clear_condition("start")
        log.info("ready", version=__version__, queue=self.built.keys.base, provider=provider)
        # What is there by now stays for ever: a full collection would walk through it for 50 ms, and a code would wait.
        gc.collect()
        gc.freeze()
        # Hardly anything here is garbage in circles. By default, Python looks through all mails in hand after every few
        # hundred of them, for up to 10 ms.
        gc.set_threshold(*COLLECT_AFTER)
        self.built.notifier.ready()
        watchers: list[Service] = [self.built.lag_meter]
        if self.built.supervisor.notify_socket:
            watchers.append(self.built.dashboard)
        async with beside(watchers):
            await self.built.engine.run()
        if self.built.shadow is None:
            await self._return_lease()

    async def _settled_in(self) -> None:
        """Make our tables before the loops ask for them; where that cannot be at once, the ledger writer sees to it."""
        if self.built.pool is None:
            return
        try:
            async with asyncio.timeout(SETTLING_S):
                await Migrator(self.built.pool).apply()
        except (Outage, TimeoutError) as error:
            log.warning("tables_not_ready", reason=str(error) or "Postgres is slow", remedy="see DATABASE_URL")

    def _say_what_is_off(self) -> None:
        """Once, at the start: nobody should wonder later why something does not happen."""
        if self.built.pool is None:
            off = "schedules, ledger, suppression, unsubscribing, webhooks"
            log.warning("ledger_off", reason="no DATABASE_URL", off=off)
            return
        if self.built.calendar is None:
            log.info("schedules_off", reason="schedule.enabled is false")
        if self.built.unsubscribe_links() is None:
            remedy = "set FLOWSTATE_HTTP_PUBLIC_URL and FLOWSTATE_HTTP_LINK_SECRET"
            log.warning("unsubscribe_off", reason="mails carry no link to unsubscribe", remedy=remedy)

    async def _tell_of_strangers(self) -> None:
        """Sharing the queue with Bull is possible; having forgotten to stop it is likelier."""
        inspector = Inspector(self.built.connection, self.built.keys)
        if strangers := (await inspector.strangers()).found:
            places = sorted(client.address for client in strangers)
            remedy = "remove the @Processor of this queue from the backend, or let them share"
            log.warning("bull_workers", workers=len(strangers), at=places, remedy=remedy)

    async def _begun(self) -> bool:
        """Wait for a Redis that answers and takes writes, and for our lease there, as long as it takes."""
        rest_s = FIRST_REST_S
        while True:
            try:
                await self.built.connection.open()
                await settle_in_cluster(self.built.connection, self.built.keys)
                if self.built.shadow is None:
                    await self.built.lease.acquire()
                    await self._tell_of_strangers()
                else:
                    await self.built.shadow.listen()
            except Outage as outage:
                log.warning("store_away", reason=outage.reason, next_try_s=rest_s)
                self.built.vitals.raise_condition("start", outage.reason)
                await asyncio.sleep(rest_s)
                rest_s = min(rest_s * 2, LONGEST_REST_S)
            else:
                return True

    async def _return_lease(self) -> None:
        """A courtesy to the next start; without it, that one looks whether we are still alive."""
        try:
            async with asyncio.timeout(LAST_CALL_S):
                await self.built.lease.release()
        except (Outage, TimeoutError) as error:
            log.warning("lease_not_returned", reason=str(error))

    @contextmanager
    def _obeying_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in OBEYED:
            loop.add_signal_handler(number, self._obey, number)
        try:
            yield
        finally:
            for number in OBEYED:
                loop.remove_signal_handler(number)

    def _obey(self, number: signal.Signals) -> None:
        """SIGHUP reloads. Of the other signals the first drains, the second hands everything back now."""
        if number == signal.SIGHUP and self._reloader is not None:
            self._reloader.ask()
            return
        log.info("signal", name=signal.Signals(number).name, second=self.built.engine.stopping)
        self.built.vitals.drain()
        self.built.notifier.leaving()
        if self.built.engine.stopping:
            self.built.engine.hurry()
        else:
            self.built.engine.stop()


@asynccontextmanager
async def beside(services: Sequence[Service]) -> AsyncIterator[None]:
    """Run these loops meanwhile. A bug in one makes its pulse stale, and is raised at the end."""
    tasks = [asyncio.create_task(service.run(), name=service.name) for service in services]
    try:
        yield
    finally:
        for service in services:
            service.stop()
        await asyncio.gather(*tasks)

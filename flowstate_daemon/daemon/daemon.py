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
from flowstate_daemon.base.errors import FlowstateError, StoreUnavailableError
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.systemd import SystemdEnvironment
from flowstate_daemon.config.loader import Config
from flowstate_daemon.daemon.bootstrap import Components
from flowstate_daemon.daemon.reload import Reloader
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import opened as open_up
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.server_info import pin_cluster_slot
from flowstate_daemon.shadow.bootstrap import apply_mode

log = structlog.get_logger()

MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
RELEASE_TIMEOUT_S = 2.0
GC_THRESHOLDS = (5_000, 5, 1_000)
MIGRATION_TIMEOUT_S = 2.0  # codes wait for nobody
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Daemon:
    """One daemon, built from a configuration. `run()` it once."""

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        *,
        supervisor: SystemdEnvironment | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        """`reread` reads the configuration again on SIGHUP; without it SIGHUP stops, as a closed terminal should."""
        self.components = Components(config, clock, supervisor)
        self._reloader = None if reread is None else Reloader(self.components, lambda: apply_mode(reread()))

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
            opened.push_async_callback(self.components.connection.close)
            if self.components.pool is not None:
                await opened.enter_async_context(open_up(self.components.pool))
            if self.components.recipients is not None:
                opened.push_async_callback(self.components.recipients.close)
            if self.components.mail_guard is not None:
                opened.push_async_callback(self.components.mail_guard.close)
            # Windows first: whoever watches must see why the house is not ready yet.
            if self.components.config.http.enabled:
                await self.components.web.open()
                opened.push_async_callback(self.components.web.close)
            if self.components.shadow is None:
                await self.components.gateway.open()
                opened.push_async_callback(self.components.gateway.close)
            with self._obeying_signals():
                await self._work()
        log.info("stopped")

    @asynccontextmanager
    async def _supervised(self) -> AsyncIterator[None]:
        """Beside the house: systemd hears how it is, and SIGHUP is obeyed."""
        notifier = self.components.notifier
        notifier.open()
        try:
            async with run_in_background([notifier] if self._reloader is None else [notifier, self._reloader]):
                yield
        except FlowstateError as error:
            notifier.failed(error.reason)
            raise
        finally:
            notifier.close()

    async def _work(self) -> None:
        self.components.health.set_condition("start", "Redis has not been reached yet")
        if not await self.components.worker.run_until_stopped(self._startup()):
            return
        provider = "none: a shadow sends nothing"
        if self.components.shadow is None:
            await self._apply_migrations()
            self._log_disabled_features()
            provider = self.components.gateway.name
        self.components.health.clear_condition("start")
        log.info("ready", version=__version__, queue=self.components.keys.base, provider=provider)
        # What is there by now stays for ever: a full collection would walk through it for 50 ms, and a code would wait.
        gc.collect()
        gc.freeze()
        # Hardly anything here is garbage in circles. By default, Python looks through all mails in hand after every few
        # hundred of them, for up to 10 ms.
        gc.set_threshold(*GC_THRESHOLDS)
        self.components.notifier.ready()
        watchers: list[Service] = [self.components.lag_meter]
        if self.components.supervisor.notify_socket:
            watchers.append(self.components.dashboard)
        async with run_in_background(watchers):
            await self.components.worker.run()
        if self.components.shadow is None:
            await self._release_lease()

    async def _apply_migrations(self) -> None:
        """Make our tables before the loops ask for them; where that cannot be at once, the ledger writer sees to it."""
        if self.components.pool is None:
            return
        try:
            async with asyncio.timeout(MIGRATION_TIMEOUT_S):
                await Migrator(self.components.pool).apply()
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning("migrations_deferred", reason=str(error) or "Postgres is slow", remedy="see DATABASE_URL")

    def _log_disabled_features(self) -> None:
        """Once, at the start: nobody should wonder later why something does not happen."""
        if self.components.pool is None:
            disabled = "schedules, ledger, suppression, unsubscribing, webhooks"
            log.warning("ledger_disabled", reason="no DATABASE_URL", disabled=disabled)
            return
        if self.components.scheduler is None:
            log.info("schedules_disabled", reason="schedule.enabled is false")
        if self.components.unsubscribe_links() is None:
            remedy = "set FLOWSTATE_HTTP_PUBLIC_URL and FLOWSTATE_HTTP_LINK_SECRET"
            log.warning("unsubscribe_disabled", reason="mails carry no link to unsubscribe", remedy=remedy)

    async def _warn_about_bull_workers(self) -> None:
        """Sharing the queue with Bull is possible; having forgotten to stop it is likelier."""
        inspector = Inspector(self.components.connection, self.components.keys)
        if foreign_workers := (await inspector.foreign_workers()).clients:
            places = sorted(client.address for client in foreign_workers)
            remedy = "remove the @Processor of this queue from the backend, or let them share"
            log.warning("bull_workers_detected", workers=len(foreign_workers), at=places, remedy=remedy)

    async def _startup(self) -> bool:
        """Wait for a Redis that answers and takes writes, and for our lease there, as long as it takes."""
        rest_s = MIN_BACKOFF_S
        while True:
            try:
                await self.components.connection.open()
                await pin_cluster_slot(self.components.connection, self.components.keys)
                if self.components.shadow is None:
                    await self.components.lease.acquire()
                    await self._warn_about_bull_workers()
                else:
                    await self.components.shadow.listen()
            except StoreUnavailableError as outage:
                log.warning("store_unavailable", reason=outage.reason, next_try_s=rest_s)
                self.components.health.set_condition("start", outage.reason)
                await asyncio.sleep(rest_s)
                rest_s = min(rest_s * 2, MAX_BACKOFF_S)
            else:
                return True

    async def _release_lease(self) -> None:
        """A courtesy to the next start; without it, that one looks whether we are still alive."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self.components.lease.release()
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning("lease_release_failed", reason=str(error))

    @contextmanager
    def _obeying_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in HANDLED_SIGNALS:
            loop.add_signal_handler(number, self._obey, number)
        try:
            yield
        finally:
            for number in HANDLED_SIGNALS:
                loop.remove_signal_handler(number)

    def _obey(self, number: signal.Signals) -> None:
        """SIGHUP reloads. Of the other signals the first drains, the second hands everything back now."""
        if number == signal.SIGHUP and self._reloader is not None:
            self._reloader.request()
            return
        log.info("signal_received", name=signal.Signals(number).name, is_second=self.components.worker.stopping)
        self.components.health.start_draining()
        self.components.notifier.announce_stopping()
        if self.components.worker.stopping:
            self.components.worker.force_stop()
        else:
            self.components.worker.stop()


@asynccontextmanager
async def run_in_background(services: Sequence[Service]) -> AsyncIterator[None]:
    """Run these loops meanwhile. A bug in one makes its pulse stale, and is raised at the end."""
    tasks = [asyncio.create_task(service.run(), name=service.name) for service in services]
    try:
        yield
    finally:
        for service in services:
            service.stop()
        await asyncio.gather(*tasks)

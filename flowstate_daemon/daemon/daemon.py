"""The life cycle of the daemon: opens its components in order, runs the worker, drains, and closes them.

The lower packages do not import this module.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog

from flowstate_daemon import __version__
from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, LeaseHeldError, StoreUnavailableError
from flowstate_daemon.base.garbage import tune_gc
from flowstate_daemon.base.service import Service, cancel, run_until
from flowstate_daemon.base.systemd import SystemdEnvironment
from flowstate_daemon.base.terminal import Terminal
from flowstate_daemon.config.loader import Config
from flowstate_daemon.daemon.bootstrap import Components
from flowstate_daemon.daemon.reload import Reloader
from flowstate_daemon.daemon.risk_monitor import LEDGER_RISK
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import POSTGRES_REMEDY, opened
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.server_info import pin_cluster_slot
from flowstate_daemon.shadow.bootstrap import apply_mode
from flowstate_daemon.worker.worker import drain_timeout_s

log = structlog.get_logger()

MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
LEASE_RETRY_S = 2.0
RELEASE_TIMEOUT_S = 1.0
CLOSE_S = 2.0  # of the shutdown timeout, what is kept for closing connections
MIN_END_S = 1.0  # after the drain, or after a second signal: to release jobs
BACKGROUND_END_S = 0.5  # of services that hold nothing; they may wait for a store
MIGRATION_TIMEOUT_S = 2.0  # codes must not wait for Postgres
HANGUP_DELAY_S = 1.0
LEASE_REMEDY = "give each daemon its own FLOWSTATE_QUEUE_INSTANCE_ID; this one starts when the other has stopped"
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Daemon:
    """One daemon. Call `run()` once."""

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        *,
        supervisor: SystemdEnvironment | None = None,
        load_config: Callable[[], Config] | None = None,
        terminal: Terminal | None = None,
    ) -> None:
        """`load_config` reloads the configuration on SIGHUP; without it, SIGHUP stops the daemon.

        SIGHUP also stops it when `terminal` has been closed.
        """
        self._terminal = terminal
        self._given_up = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.components = Components(config, clock, supervisor)
        self._reloader = None if load_config is None else Reloader(self.components, lambda: apply_mode(load_config()))

    async def run(self) -> None:
        """Open everything, work until a signal, drain, close.

        Raises:
            ConfigError: this machine has no such HTTP address, or Redis is a cluster and the queue has no hash tag.
            HttpPortError: another program uses the HTTP port.
            LeaseHeldError: another daemon has taken over the lease of this instance id.
            ServiceCrashedError: a service failed unexpectedly; the supervisor should restart the process.
        """
        self.components.health.set_condition("start", "Redis has not been reached yet")
        async with AsyncExitStack() as stack:
            # Opened first and closed last, so that systemd is informed for as long as anything is open.
            await stack.enter_async_context(self._supervised())
            stack.callback(self._cancel_timer)
            if self.components.tracing is not None:
                self.components.tracing.open()
                stack.push_async_callback(self.components.tracing.close)
            stack.push_async_callback(self.components.connection.close)
            if self.components.pool is not None:
                await stack.enter_async_context(opened(self.components.pool))
            if self.components.recipients is not None:
                stack.push_async_callback(self.components.recipients.close)
            stack.push_async_callback(self.components.earlier_requests.close)
            if self.components.mail_guard is not None:
                stack.push_async_callback(self.components.mail_guard.close)
            # HTTP opens before Redis is reached: /health/ready shows why the daemon is not ready yet.
            if self.components.config.http.enabled:
                await self.components.web.open()
                if self.components.api is not None:
                    stack.push_async_callback(self.components.api.close)
                stack.push_async_callback(self.components.web.close)
            if self.components.shadow is None:
                await self.components.gateway.open()
                stack.push_async_callback(self.components.gateway.close)
            with self._signal_handlers():
                await self._work()
        log.info("stopped")

    @asynccontextmanager
    async def _supervised(self) -> AsyncIterator[None]:
        """Report to systemd and handle reloads for as long as the context is open."""
        notifier = self.components.notifier
        notifier.open()
        try:
            services: list[Service] = [notifier]
            services += [] if self._reloader is None else [self._reloader]
            services += [self.components.alerter] if self.components.alerter.enabled else []
            async with run_in_background(services):
                yield
        except FlowstateError as error:
            notifier.failed(error.reason)
            raise
        finally:
            notifier.close()

    async def _work(self) -> None:
        if not await self.components.worker.run_until_stopped(self._startup()):
            return
        provider = "none: shadow mode sends nothing"
        if self.components.shadow is None:
            await self._apply_migrations()
            self._log_disabled_features()
            provider = self.components.gateway.name
        self.components.health.clear_condition("start")
        log.info("ready", version=__version__, queue=self.components.keys.base, provider=provider)
        tune_gc()
        self.components.notifier.ready()
        monitors: list[Service] = [
            self.components.lag_monitor,
            self.components.bullmq_detector,
            self.components.statistics,
            self.components.risk_monitor,
        ]
        if self.components.shadow is None:  # a shadow judges nothing, and needs no right to ask for the time
            monitors.append(self.components.clock_monitor)
        if self.components.supervisor.notify_socket:
            monitors.append(self.components.status_reporter)
        async with run_in_background(monitors):
            await run_until(self._given_up, self.components.worker.run())
        if self.components.shadow is None:
            await self._release_lease()

    async def _apply_migrations(self) -> None:
        """Create the tables before the services use them. When Postgres is slow, the ledger writer does it later."""
        if self.components.pool is None:
            return
        try:
            async with asyncio.timeout(MIGRATION_TIMEOUT_S):
                await Migrator(self.components.pool).apply()
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning("migrations_deferred", reason=str(error) or "Postgres is slow", remedy=POSTGRES_REMEDY)

    def _log_disabled_features(self) -> None:
        """Log once, at the start, which features the configuration leaves disabled, and why."""
        if self.components.pool is None:
            disabled = "schedules, ledger, suppression, unsubscribing, webhooks"
            log.warning("ledger_disabled", reason="no DATABASE_URL", disabled=disabled)
            return
        if self.components.scheduler is None:
            log.info("schedules_disabled", reason="schedule.enabled is false")
        if self.components.unsubscribe_links() is None:
            remedy = "set FLOWSTATE_HTTP_PUBLIC_URL and FLOWSTATE_HTTP_LINK_SECRET"
            log.warning("unsubscribe_disabled", reason="emails contain no unsubscribe link", remedy=remedy)

    async def _hold_bulk_without_ledger(self) -> None:
        """Without the ledger that this queue had, people who unsubscribed or bounced would get emails again."""
        components = self.components
        if await components.risk_monitor.must_hold_bulk():
            components.send_gate.hold_bulk(LEDGER_RISK.name, f"{LEDGER_RISK.finding}; {LEDGER_RISK.remedy}")

    async def _warn_about_bull_workers(self) -> None:
        """Warn about Bull workers: they can share the queue, but usually they were left running by mistake."""
        inspector = Inspector(self.components.connection, self.components.keys)
        if bull_workers := (await inspector.foreign_workers()).clients:
            addresses = sorted(client.address for client in bull_workers)
            remedy = "remove the @Processor of this queue from the backend, or let them share the queue"
            log.warning("bull_workers_detected", workers=len(bull_workers), at=addresses, remedy=remedy)

    async def _startup(self) -> bool:
        """Connect to Redis and acquire the lease; retry while either is not available."""
        waits_for_lease = False
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            try:
                await self.components.connection.open()
                await pin_cluster_slot(self.components.connection, self.components.keys)
                if self.components.shadow is None:
                    await self.components.clock_monitor.read()  # before anything is judged by the time
                    await self.components.lease.acquire()
                    await self._hold_bulk_without_ledger()
                    await self._warn_about_bull_workers()
                else:
                    await self.components.shadow.listen()
            except StoreUnavailableError as outage:
                log.warning("store_unavailable", reason=outage.reason, next_try_s=backoff.next_s())
                self.components.health.set_condition("start", outage.reason)
                await asyncio.sleep(backoff.delay_s)
            except LeaseHeldError as held:
                # Exiting would use up systemd's start limit while the host of a predecessor is dead.
                if not waits_for_lease:
                    log.warning("lease_held", reason=held.reason, remedy=LEASE_REMEDY)
                waits_for_lease = True
                self.components.health.set_condition("start", f"waiting for the lease: {held.reason}")
                await asyncio.sleep(LEASE_RETRY_S)
            else:
                return True

    async def _release_lease(self) -> None:
        """Let the next start acquire the lease at once, without first checking whether this daemon is alive."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self.components.lease.release()
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning("lease_release_failed", reason=str(error))

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in HANDLED_SIGNALS:
            loop.add_signal_handler(number, self._handle_signal, number)
        try:
            yield
        finally:
            for number in HANDLED_SIGNALS:
                loop.remove_signal_handler(number)

    def _handle_signal(self, number: signal.Signals) -> None:
        """SIGHUP reloads. Of the other signals, the first drains and the second releases all jobs at once."""
        if number == signal.SIGHUP and self._reloader is not None and not self._is_terminal_closed():
            self._reloader.request()
            # When a login ends, the signal may come shortly before the terminal is closed.
            asyncio.get_running_loop().call_later(HANGUP_DELAY_S, self._stop_without_terminal)
            return
        is_second = self.components.worker.stopping
        log.info("signal_received", name=signal.Signals(number).name, is_second=is_second)
        self.components.health.start_draining()
        self.components.notifier.announce_stopping()
        if is_second:
            self.components.worker.force_stop()
        else:
            self.components.worker.stop()
            if self.components.operator is not None:  # else it would change jobs, and fill the journal, to the end
                self.components.operator.actions.stop_all()
        shutdown_timeout_s = self.components.config.queue.shutdown_timeout_s
        end_s = max(shutdown_timeout_s - CLOSE_S, drain_timeout_s(shutdown_timeout_s) + MIN_END_S)
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(MIN_END_S if is_second else end_s, self._give_up)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        """End without what still hangs: a store that does not answer must not make the supervisor kill the daemon.

        Jobs that are not released stay active, and outcomes stay in the journal: the next start continues with both.
        """
        self.components.worker.give_up()
        if self.components.pool is not None:
            self.components.pool.terminate()
        remedy = "the next start continues; check Redis and Postgres"
        log.warning("shutdown_timeout_reached", jobs=len(self.components.worker.in_flight), remedy=remedy)
        self._given_up.set()

    def _is_terminal_closed(self) -> bool:
        return self._terminal is not None and self._terminal.is_closed

    def _stop_without_terminal(self) -> None:
        if self._is_terminal_closed() and not self.components.worker.stopping:
            self._handle_signal(signal.SIGHUP)


@asynccontextmanager
async def run_in_background(services: Sequence[Service]) -> AsyncIterator[None]:
    """Run these services while the context is open.

    When one fails, its heartbeat becomes stale, and its error is raised when the context closes. At the end they may
    wait for a store that does not answer: they are not waited for, and leave nothing behind.
    """
    tasks = [asyncio.create_task(service.run(), name=service.name) for service in services]
    try:
        yield
    finally:
        for service in services:
            service.stop()
        ended, hanging = await asyncio.wait(tasks, timeout=BACKGROUND_END_S)
        await asyncio.gather(*map(cancel, hanging))
        await asyncio.gather(*ended)

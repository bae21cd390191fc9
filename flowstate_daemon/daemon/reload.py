"""Reloads the configuration of a running daemon: SIGHUP, `systemctl reload`.

The new configuration is loaded and compiled completely before anything is replaced, so one mistake changes nothing.
Reloadable settings take effect at once; the log names the others, which need a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import structlog

from flowstate_daemon.base import logs
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.base.redaction import keep_mistake
from flowstate_daemon.base.service import HEARTBEAT_TIMEOUT_S, Service
from flowstate_daemon.config.loader import KEYS, Config, display_value
from flowstate_daemon.config.sources import Key
from flowstate_daemon.daemon.bootstrap import BrandedComponents, Components
from flowstate_daemon.database.dsn import clean_dsn

log = structlog.get_logger()

# What can change without dropping a job or a connection.
RELOADABLE: frozenset[Key] = frozenset(
    key for key in KEYS if key[0] in {"log", "mail", "links"} or key == ("queue", "shutdown_timeout_s")
)


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting that differs: its key, and both values with secrets masked."""

    key: Key
    old: str
    new: str

    def __str__(self) -> str:
        return f"{'.'.join(self.key)}: {self.old} → {self.new}"


def diff_settings(old: Config, new: Config) -> list[SettingChange]:
    """Every setting whose value differs, in the order of the file. Pure."""
    changes = []
    for section, key in KEYS:
        before, after = getattr(getattr(old, section), key), getattr(getattr(new, section), key)
        if before != after:
            changes.append(SettingChange((section, key), display_value(key, before), display_value(key, after)))
    return changes


def merge_reloadable(old: Config, new: Config) -> Config:
    """The effective configuration: the old one with the reloadable settings of the new one. Pure."""
    queue = old.queue.model_copy(update={"shutdown_timeout_s": new.queue.shutdown_timeout_s})
    sources = {key: source for key, source in old.sources.items() if key not in RELOADABLE}
    sources |= {key: source for key, source in new.sources.items() if key in RELOADABLE}
    sections = {"log": new.log, "mail": new.mail, "links": new.links, "queue": queue}
    return old.model_copy(update={**sections, "sources": sources})


class Reloader(Service):
    """Reloads the configuration after each `request()`."""

    name: ClassVar[str] = "reloader"

    def __init__(self, components: Components, load_config: Callable[[], Config]) -> None:
        super().__init__(components.health.register(self.name))
        self._components = components
        self._load_config = load_config
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Reload soon. Several requests before the reload starts cause one reload."""
        self._requested.set()

    def stop(self) -> None:
        super().stop()
        self._requested.set()

    async def run_once(self) -> None:
        await self.wait(HEARTBEAT_TIMEOUT_S, self._requested.wait())
        if self._requested.is_set() and not self.stopping:
            self._requested.clear()
            self._components.notifier.reloading()
            await self._reload()
            self._components.notifier.reloaded()

    async def _reload(self) -> None:
        try:
            # Reading files and compiling templates blocks for too long for the event loop: a code would wait.
            new, changes, branding = await asyncio.to_thread(self._prepare)
        except ConfigError as error:
            self._report_errors(error.errors)
        else:
            self._apply(new, changes, branding)

    def _report_errors(self, errors: Sequence[str]) -> None:
        errors = [keep_mistake(error) for error in errors]
        log.error("reload_failed", errors=errors, remedy="nothing was changed: correct the errors and reload again")
        self._components.health.record_error("reload failed: " + "; ".join(errors))

    def _prepare(self) -> tuple[Config, list[SettingChange], BrandedComponents | None]:
        """Everything that can fail, before anything is applied. Raises ConfigError with all errors."""
        new = self._load_config()
        if new.database.url is not None:
            clean_dsn(new.database.url.get_secret_value())
        changes = diff_settings(self._components.config, new)
        # The files of kinds_dir may have changed although the setting has not.
        rebuild = new.mail.kinds_dir is not None or any(change.key[0] in {"mail", "links"} for change in changes)
        return new, changes, self._components.build_branding(new) if rebuild else None

    def _apply(self, new: Config, changes: Sequence[SettingChange], branding: BrandedComponents | None) -> None:
        applied = [change for change in changes if change.key in RELOADABLE]
        pending = [change for change in changes if change.key not in RELOADABLE]
        if branding is not None:
            self._components.apply_branding(branding)
        self._components.worker.set_shutdown_timeout(new.queue.shutdown_timeout_s)
        if any(change.key[0] == "log" for change in applied):
            journal = self._components.supervisor.journal
            logs.reconfigure(new.log.level, new.log.format, journal=journal, colors=new.log.colors)
        self._components.config = merge_reloadable(self._components.config, new)
        self._components.risk_monitor.apply_settings(self._components.config)
        if self._components.operator is not None:
            self._components.operator.config = self._components.config
        log.info("reloaded", changed=[str(change) for change in applied], unchanged=not changes)
        if pending:
            remedy = "these take effect at the next start: systemctl restart flowstate-daemon"
            log.warning("restart_required", changed=[str(change) for change in pending], remedy=remedy)

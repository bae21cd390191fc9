"""Reading the configuration again while the house runs: SIGHUP, `systemctl reload`.

The new configuration is read and built in full before anything is touched: one mistake, and nothing changes. What can
change in a running house does; the rest is named, so that nobody believes it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import structlog

from flowstate_daemon.base import logs
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.base.service import HEARTBEAT_TIMEOUT_S, Service
from flowstate_daemon.config.loader import KEYS, Config, display_value
from flowstate_daemon.config.sources import Key
from flowstate_daemon.daemon.bootstrap import BrandedComponents, Components
from flowstate_daemon.database.dsn import clean_dsn

log = structlog.get_logger()

# What a running house can change without dropping a job, a connection or a promise.
RELOADABLE: frozenset[Key] = frozenset(
    key for key in KEYS if key[0] in {"log", "mail"} or key == ("queue", "shutdown_timeout_s")
)


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting that differs: its key, and both values as they may be shown."""

    key: Key
    old: str
    new: str

    def __str__(self) -> str:
        return f"{'.'.join(self.key)}: {self.old} → {self.new}"


def diff_settings(old: Config, new: Config) -> list[SettingChange]:
    """Every setting whose value differs, in the order of the file. Pure."""
    found = []
    for section, key in KEYS:
        before, after = getattr(getattr(old, section), key), getattr(getattr(new, section), key)
        if before != after:
            found.append(SettingChange((section, key), display_value(key, before), display_value(key, after)))
    return found


def merge_reloadable(old: Config, new: Config) -> Config:
    """The old configuration with what can be reloaded from the new one: what the house really runs on. Pure."""
    queue = old.queue.model_copy(update={"shutdown_timeout_s": new.queue.shutdown_timeout_s})
    return old.model_copy(update={"log": new.log, "mail": new.mail, "queue": queue})


class Reloader(Service):
    """Waits to be asked, and then reloads."""

    name: ClassVar[str] = "reloader"

    def __init__(self, built: Components, reread: Callable[[], Config]) -> None:
        super().__init__(built.health.register("reloader"))
        self._built = built
        self._reread = reread
        self._asked = asyncio.Event()

    def request(self) -> None:
        """Reload soon; asked twice meanwhile is asked once."""
        self._asked.set()

    def stop(self) -> None:
        super().stop()
        self._asked.set()

    async def run_once(self) -> None:
        await self.wait(HEARTBEAT_TIMEOUT_S, self._asked.wait())
        if self._asked.is_set() and not self.stopping:
            self._asked.clear()
            self._built.notifier.reloading()
            await self._reload()
            self._built.notifier.reloaded()

    async def _reload(self) -> None:
        try:
            # Files are read and templates compiled beside the loop: no code shall wait for that.
            new, found, branding = await asyncio.to_thread(self._prepared)
        except ConfigError as error:
            self._refuse(error.errors)
        else:
            self._apply(new, found, branding)

    def _refuse(self, errors: Sequence[str]) -> None:
        log.error("reload_failed", errors=errors, remedy="nothing was changed: correct these and reload again")
        self._built.health.record_error("reload refused: " + "; ".join(errors))

    def _prepared(self) -> tuple[Config, list[SettingChange], BrandedComponents | None]:
        """Everything that can fail, before anything is applied. Raises ConfigError with all mistakes."""
        new = self._reread()
        if new.database.url is not None:
            clean_dsn(new.database.url.get_secret_value())
        found = diff_settings(self._built.config, new)
        dressed = any(change.key[0] == "mail" for change in found)
        return new, found, self._built.build_branding(new.mail) if dressed else None

    def _apply(self, new: Config, found: Sequence[SettingChange], branding: BrandedComponents | None) -> None:
        applied = [change for change in found if change.key in RELOADABLE]
        waiting = [change for change in found if change.key not in RELOADABLE]
        if branding is not None:
            self._built.apply_branding(branding)
        self._built.worker.set_shutdown_timeout(new.queue.shutdown_timeout_s)
        if any(change.key[0] == "log" for change in applied):
            logs.reconfigure(new.log.level, new.log.format, journal=self._built.supervisor.journal)
        self._built.config = merge_reloadable(self._built.config, new)
        log.info("reloaded", changed=[str(change) for change in applied], unchanged=not found)
        if waiting:
            remedy = "these take effect at the next start: systemctl restart flowstate-daemon"
            log.warning("restart_required", changed=[str(change) for change in waiting], remedy=remedy)

"""Health of the daemon: every service has a heartbeat, and a heartbeat means progress.

A service beats when it has finished a pass; `web` and the watchdog read the heartbeats. A service that waits
without a time limit is idle, so that it does not count as stuck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flowstate_daemon.base.clock import Clock

NEXT_TRY = "; next try "  # between a reason and the time of the next try


@dataclass(slots=True)
class Heartbeat:
    """The heartbeat of one service: stale when it is not idle and has not beaten for `stale_after_s` seconds."""

    name: str
    stale_after_s: float
    clock: Clock
    last_beat_at: float = field(init=False)
    is_idle: bool = field(init=False, default=False)
    error: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.last_beat_at = self.clock.monotonic()

    def beat(self) -> None:
        """Record progress; clears the error."""
        self.beat_within_pass()
        self.error = None

    def beat_within_pass(self) -> None:
        """Record progress inside a pass, which may still fail: an error that was reported stays until it has ended."""
        self.last_beat_at = self.clock.monotonic()
        self.is_idle = False

    def idle(self) -> None:
        """The service has nothing to do: it cannot become stale until the next beat."""
        self.is_idle = True

    def report_error(self, reason: str) -> None:
        """The service runs and waits for a store: the daemon is not ready, but live."""
        self.beat_within_pass()
        self.error = reason

    @property
    def age_s(self) -> float:
        """Seconds since the last beat."""
        return self.clock.monotonic() - self.last_beat_at

    @property
    def stale(self) -> bool:
        return not self.is_idle and self.age_s > self.stale_after_s


@dataclass(frozen=True, slots=True)
class LastError:
    """The most recent error; `at` is in monotonic seconds."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Condition:
    """Why the daemon cannot work, and when it tries again, in monotonic seconds, if that is known."""

    reason: str
    next_try_at: float | None = None

    def describe(self, now: float) -> str:
        if self.next_try_at is None:
            return self.reason
        wait_s = math.ceil(self.next_try_at - now)
        when = f"in {wait_s} s" if wait_s > 0 else "now"
        return f"{self.reason}{NEXT_TRY}{when}"


class HealthRegistry:
    """All heartbeats of one daemon, and the conditions that make it not ready."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heartbeats: dict[str, Heartbeat] = {}
        self._conditions: dict[str, Condition] = {}
        self._warnings: dict[str, str] = {}
        self._started_at = clock.monotonic()
        self.draining = False
        self.last_error: LastError | None = None

    @property
    def uptime_s(self) -> float:
        return self._clock.monotonic() - self._started_at

    def start_draining(self) -> None:
        """The daemon claims no more jobs and will exit: it is not ready, but live."""
        self.draining = True

    def register(self, name: str, *, stale_after_s: float = 25.0) -> Heartbeat:
        """Register a service. With the default, a stuck service is detected within 30 s."""
        if name in self._heartbeats:
            raise ValueError(f"two services named {name}: one of them would not be monitored")
        heartbeat = Heartbeat(name, stale_after_s, self._clock)
        self._heartbeats[name] = heartbeat
        return heartbeat

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        return tuple(self._heartbeats.values())

    def set_condition(self, name: str, reason: str, *, next_try_at: float | None = None) -> None:
        """The daemon cannot work for this reason: it is not ready until the condition is cleared."""
        self._conditions[name] = Condition(reason, next_try_at)

    def clear_condition(self, name: str) -> None:
        self._conditions.pop(name, None)

    def set_warning(self, name: str, reason: str) -> None:
        """Emails are sent, but something about them is wrong, until the warning is cleared."""
        self._warnings[name] = reason

    def clear_warning(self, name: str) -> None:
        self._warnings.pop(name, None)

    @property
    def warnings(self) -> dict[str, str]:
        """What is wrong with the emails although the daemon is ready, by name."""
        return dict(self._warnings)

    def record_error(self, reason: str) -> None:
        """Keep the most recent error for the status output."""
        self.last_error = LastError(reason, self._clock.monotonic())

    def stale_services(self) -> list[str]:
        """Names of the services that make no progress; the watchdog restarts the process."""
        return [heartbeat.name for heartbeat in self._heartbeats.values() if heartbeat.stale]

    def problems(self) -> dict[str, str]:
        """Outages and conditions that prevent work although no service is stuck, by name."""
        errors = {
            heartbeat.name: heartbeat.error for heartbeat in self._heartbeats.values() if heartbeat.error is not None
        }
        now = self._clock.monotonic()
        return {**errors, **{name: condition.describe(now) for name, condition in self._conditions.items()}}

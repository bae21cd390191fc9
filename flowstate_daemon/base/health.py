"""Vital signs: each loop has a pulse, and a pulse means progress, not presence.

Loops beat when they have got something done (or when they know that there is nothing to do); `web` and the
watchdog read. A loop that waits for somebody else without a limit rests, so that its silence is not taken for
death.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flowstate_daemon.base.clock import Clock


@dataclass(slots=True)
class Heartbeat:
    """The pulse of one loop: stale when it neither rests nor has beaten for `stale_after_s` seconds."""

    name: str
    stale_after_s: float
    clock: Clock
    last_beat_at: float = field(init=False)
    is_idle: bool = field(init=False, default=False)
    error: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.last_beat_at = self.clock.monotonic()

    def beat(self) -> None:
        """Progress was made just now; any trouble is over."""
        self.last_beat_at = self.clock.monotonic()
        self.is_idle = False
        self.error = None

    def idle(self) -> None:
        """Nothing is under way in this loop: silence is fine until the next beat."""
        self.is_idle = True

    def report_error(self, trouble: str) -> None:
        """The loop is alive and waits for a store to come back: ready turns red, live does not."""
        self.last_beat_at = self.clock.monotonic()
        self.is_idle = False
        self.error = trouble

    @property
    def age_s(self) -> float:
        """Seconds since the last sign of life."""
        return self.clock.monotonic() - self.last_beat_at

    @property
    def stale(self) -> bool:
        return not self.is_idle and self.age_s > self.stale_after_s


@dataclass(frozen=True, slots=True)
class LastError:
    """The last thing that went wrong: why, and when in monotonic seconds."""

    reason: str
    at: float


class HealthRegistry:
    """All pulses of one house, and the conditions that close its lane."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heartbeats: dict[str, Heartbeat] = {}
        self._conditions: dict[str, str] = {}
        self._started_at = clock.monotonic()
        self.draining = False
        self.last_error: LastError | None = None

    @property
    def uptime_s(self) -> float:
        return self._clock.monotonic() - self._started_at

    def start_draining(self) -> None:
        """Say that the house takes no more work and will leave: ready turns red, live does not."""
        self.draining = True

    def register(self, name: str, *, stale_after_s: float = 25.0) -> Heartbeat:
        """Register a loop. The default keeps the promise that a stuck loop is seen within 30 s."""
        if name in self._heartbeats:
            raise ValueError(f"two loops named {name}: one of them would go unwatched")
        heartbeat = Heartbeat(name, stale_after_s, self._clock)
        self._heartbeats[name] = heartbeat
        return heartbeat

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        return tuple(self._heartbeats.values())

    def set_condition(self, name: str, reason: str) -> None:
        """Say that the house cannot do its work, and why: ready turns red until the condition is cleared."""
        self._conditions[name] = reason

    def clear_condition(self, name: str) -> None:
        self._conditions.pop(name, None)

    def record_error(self, reason: str) -> None:
        """Remember what went wrong last, for whoever asks how the house is."""
        self.last_error = LastError(reason, self._clock.monotonic())

    def stale_services(self) -> list[str]:
        """Names of loops that have stopped making progress: a bug, the watchdog's business."""
        return [heartbeat.name for heartbeat in self._heartbeats.values() if heartbeat.stale]

    def problems(self) -> dict[str, str]:
        """What keeps the house from working although no loop is stuck: outages and conditions, by name."""
        suffering = {
            heartbeat.name: heartbeat.error for heartbeat in self._heartbeats.values() if heartbeat.error is not None
        }
        return {**suffering, **self._conditions}

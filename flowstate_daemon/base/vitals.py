"""Vital signs: each loop has a pulse, and a pulse means progress, not presence.

Loops beat when they have got something done (or when they know that there is nothing to do); `web` and the
watchdog read. A loop that waits for somebody else without a limit rests, so that its silence is not taken for
death.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flowstate_daemon.base.clock import Clock


@dataclass(slots=True)
class Pulse:
    """The pulse of one loop: stale when it neither rests nor has beaten for `stale_after_s` seconds."""

    name: str
    stale_after_s: float
    clock: Clock
    beaten_at: float = field(init=False)
    resting: bool = field(init=False, default=False)
    trouble: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.beaten_at = self.clock.mono()

    def beat(self) -> None:
        """Progress was made just now; any trouble is over."""
        self.beaten_at = self.clock.mono()
        self.resting = False
        self.trouble = None

    def rest(self) -> None:
        """Nothing is under way in this loop: silence is fine until the next beat."""
        self.resting = True

    def suffer(self, trouble: str) -> None:
        """The loop is alive and waits for a store to come back: ready turns red, live does not."""
        self.beaten_at = self.clock.mono()
        self.resting = False
        self.trouble = trouble

    @property
    def age_s(self) -> float:
        """Seconds since the last sign of life."""
        return self.clock.mono() - self.beaten_at

    @property
    def stale(self) -> bool:
        return not self.resting and self.age_s > self.stale_after_s


@dataclass(frozen=True, slots=True)
class Mishap:
    """The last thing that went wrong: why, and when in monotonic seconds."""

    reason: str
    at: float


class Vitals:
    """All pulses of one house, and the conditions that close its lane."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pulses: dict[str, Pulse] = {}
        self._conditions: dict[str, str] = {}
        self._started_at = clock.mono()
        self.draining = False
        self.mishap: Mishap | None = None

    @property
    def uptime_s(self) -> float:
        return self._clock.mono() - self._started_at

    def drain(self) -> None:
        """Say that the house takes no more work and will leave: ready turns red, live does not."""
        self.draining = True

    def pulse(self, name: str, *, stale_after_s: float = 25.0) -> Pulse:
        """Register a loop. The default keeps the promise that a stuck loop is seen within 30 s."""
        if name in self._pulses:
            raise ValueError(f"two loops named {name}: one of them would go unwatched")
        pulse = Pulse(name, stale_after_s, self._clock)
        self._pulses[name] = pulse
        return pulse

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        return tuple(self._pulses.values())

    def raise_condition(self, name: str, reason: str) -> None:
        """Say that the house cannot do its work, and why: ready turns red until the condition is cleared."""
        self._conditions[name] = reason

    def clear_condition(self, name: str) -> None:
        self._conditions.pop(name, None)

    def note(self, reason: str) -> None:
        """Remember what went wrong last, for whoever asks how the house is."""
        self.mishap = Mishap(reason, self._clock.mono())

    def stuck(self) -> list[str]:
        """Names of loops that have stopped making progress: a bug, the watchdog's business."""
        return [pulse.name for pulse in self._pulses.values() if pulse.stale]

    def troubles(self) -> dict[str, str]:
        """What keeps the house from working although no loop is stuck: outages and conditions, by name."""
        suffering = {pulse.name: pulse.trouble for pulse in self._pulses.values() if pulse.trouble is not None}
        return {**suffering, **self._conditions}

"""What every loop reports to, handed around as one. Built by `daemon`."""

from __future__ import annotations

from dataclasses import dataclass

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals


@dataclass(frozen=True, slots=True)
class Instruments:
    """The vital signs, the numbers and the time of one house."""

    vitals: Vitals
    metrics: Metrics
    clock: Clock

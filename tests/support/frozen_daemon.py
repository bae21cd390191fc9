"""The daemon with two injected bugs: SIGUSR1 blocks its event loop, SIGUSR2 stops the heartbeats of its fetcher."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

from flowstate_daemon.__main__ import main
from flowstate_daemon.base.health import Heartbeat

FROZEN_S = 600


def freeze_service(_number: int, _frame: FrameType | None) -> None:
    """Block the main thread, as a call that never returns would."""
    time.sleep(FROZEN_S)


def stop_heartbeats(_number: int, _frame: FrameType | None) -> None:
    """Make the fetcher look stuck from now on."""
    original = Heartbeat.beat

    def beat(heartbeat: Heartbeat) -> None:
        if heartbeat.name == "fetcher":
            heartbeat.last_beat_at, heartbeat.is_idle = float("-inf"), False
        else:
            original(heartbeat)

    Heartbeat.beat = beat  # type: ignore[method-assign]


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, freeze_service)
    signal.signal(signal.SIGUSR2, stop_heartbeats)
    sys.exit(main())

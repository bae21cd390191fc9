"""The daemon, except that SIGUSR1 freezes its event loop and SIGUSR2 silences one of its loops: bugs made to order."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

from flowstate_daemon.__main__ import main
from flowstate_daemon.base.vitals import Pulse

FROZEN_S = 600


def freeze(_number: int, _frame: FrameType | None) -> None:
    """Block the main thread as a call that never returns would."""
    time.sleep(FROZEN_S)


def silence(_number: int, _frame: FrameType | None) -> None:
    """From now on the fetcher makes no progress that anybody sees."""
    usual = Pulse.beat

    def beat(pulse: Pulse) -> None:
        if pulse.name == "fetcher":
            pulse.beaten_at, pulse.resting = float("-inf"), False
        else:
            usual(pulse)

    Pulse.beat = beat  # type: ignore[method-assign]


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, freeze)
    signal.signal(signal.SIGUSR2, silence)
    sys.exit(main())

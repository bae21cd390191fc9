"""The terminal on which the process was started. SIGHUP means "reload", or that this terminal has been closed."""

from __future__ import annotations

import os
from collections.abc import Iterable

STANDARD_STREAMS = (0, 1, 2)


class Terminal:
    """The standard streams that were a terminal at the start; none for a service."""

    def __init__(self, descriptors: Iterable[int] = STANDARD_STREAMS) -> None:
        self._descriptors = [number for number in descriptors if os.isatty(number)]

    @property
    def is_closed(self) -> bool:
        """Whether there was a terminal, and it has been closed: the kernel then answers every request with an error."""
        return any(not os.isatty(number) for number in self._descriptors)

"""Writes the log from a thread of its own, so that a reader that has stopped never blocks the event loop.

The reader may be a terminal after Ctrl-S, a full pipe, or a log collector that hangs. Lines wait in a bounded buffer.
Those that do not fit, or cannot be written, are dropped, counted, and reported once writing works again.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_BUFFER_BYTES = 1024 * 1024  # about 3,000 lines
CHUNK_BYTES = select.PIPE_BUF  # a longer write may be mixed with the output of other writers of the same pipe


@dataclass(frozen=True, slots=True)
class Line:
    """A line to write, and the number of lines that are lost without it: for a report, those that it reports."""

    text: bytes
    count: int = 1
    is_report: bool = False


class BackgroundWriter(io.RawIOBase):
    """A binary stream over a descriptor. Each `write` is one line; it returns at once, whatever the reader does."""

    def __init__(
        self, descriptor: int, format_report: Callable[[int], bytes], *, max_bytes: int = MAX_BUFFER_BYTES
    ) -> None:
        """`format_report` returns the line that reports a number of dropped lines."""
        super().__init__()
        self._descriptor = descriptor
        self._format_report = format_report
        self._max_bytes = max_bytes
        self._lines: deque[Line] = deque()
        self._bytes = 0  # in the buffer, and being written
        self._is_full = False
        self._unreported = 0
        self._is_torn = False  # the last write ended inside a line
        self._changed = threading.Condition()
        self.dropped = 0

    def start(self) -> None:
        """Start the thread. It is a daemon thread: while it waits for a reader, the process can still exit."""
        threading.Thread(target=self._run, name="log_writer", daemon=True).start()

    def write(self, data: Any, /) -> int:
        """Buffer one line, or drop it when the buffer is full."""
        line = bytes(data)
        with self._changed:
            self._is_full = self._is_full or (self._bytes > 0 and self._bytes + len(line) > self._max_bytes)
            if self._is_full:
                self.dropped += 1
                self._unreported += 1
            else:
                self._append(Line(line))
        return len(line)

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything is written, but no longer than this; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, timeout_s)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def _append(self, line: Line) -> None:
        self._lines.append(line)
        self._bytes += len(line.text)
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines = self._take_chunk()
            chunk = b"".join(line.text for line in lines)
            is_written = self._write_chunk(chunk)
            with self._changed:
                self._bytes -= len(chunk)
                if is_written:
                    self._report_dropped()
                else:
                    self.dropped += sum(not line.is_report for line in lines)
                    self._unreported += sum(line.count for line in lines)
                self._is_full = self._is_full and self._bytes > 0
                self._changed.notify_all()

    def _report_dropped(self) -> None:
        """Buffer the report. A reader that is only slow gets one for each half of the buffer, not one for each line."""
        if self._unreported and self._bytes <= self._max_bytes // 2:
            count, self._unreported, self._is_full = self._unreported, 0, False
            self._append(Line(self._format_report(count), count, is_report=True))

    def _take_chunk(self) -> list[Line]:
        lines = [self._lines.popleft()]
        left = CHUNK_BYTES - len(lines[0].text)
        while self._lines and len(self._lines[0].text) <= left:
            lines.append(self._lines.popleft())
            left -= len(lines[-1].text)
        return lines

    def _write_chunk(self, chunk: bytes) -> bool:
        """Write all of it, however long the reader takes. False when it cannot be written, as with a full disk."""
        rest = memoryview(b"\n" + chunk if self._is_torn else chunk)
        started = False
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
                started = True
            except BlockingIOError:  # another program made the descriptor non-blocking
                self._wait_until_writable()
            except OSError:
                self._is_torn = self._is_torn or started
                return False
        self._is_torn = False
        return True

    def _wait_until_writable(self) -> None:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        poller.poll()

"""The writer of the log on real descriptors: readers that stop or are slow, full disks, and the end of the process."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from flowstate_daemon.base import logs
from flowstate_daemon.base.log_writer import CHUNK_BYTES, BackgroundWriter

PIPE_BYTES = 4096
LINES = 500


class Pipe:
    """A small pipe with a writer on it; `drop` reports are lines such as `dropped 3`."""

    def __init__(self, *, max_bytes: int) -> None:
        self.reader, self.end = os.pipe()
        fcntl.fcntl(self.end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.writer = BackgroundWriter(self.end, lambda count: b"dropped %d\n" % count, max_bytes=max_bytes)
        self.writer.start()

    def read_all(self) -> list[str]:
        """Read what is written until the writer has nothing left."""
        text = b""
        os.set_blocking(self.reader, False)
        deadline = time.monotonic() + 20
        while not self.writer.drain(0.01) or self._is_filled():
            assert time.monotonic() < deadline, "the writer does not come to an end"
            text += self._read_some()
        return text.decode().splitlines()

    def _is_filled(self) -> bool:
        return int.from_bytes(fcntl.ioctl(self.reader, 0x541B, b"\0" * 4), sys.byteorder) > 0  # FIONREAD

    def _read_some(self) -> bytes:
        try:
            return os.read(self.reader, PIPE_BYTES)
        except BlockingIOError:
            return b""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe whose writer buffers 8 KiB."""
    made = Pipe(max_bytes=8192)
    yield made
    made.read_all()
    os.close(made.reader)
    os.close(made.end)


def numbered(first: int, count: int) -> list[str]:
    return [f"line {number} {'x' * 100}" for number in range(first, first + count)]


def write(pipe: Pipe, lines: list[str]) -> None:
    for line in lines:
        pipe.writer.write(line.encode() + b"\n")


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    """A reader that reads gets every line, in the order of the calls, and no report."""
    lines = numbered(0, 20)
    write(pipe, lines)
    assert pipe.read_all() == lines
    assert pipe.writer.dropped == 0


@pytest.mark.parametrize("is_blocking", [True, False])
def test_reader_that_stops_and_returns_gets_the_oldest_lines_and_a_report(pipe: Pipe, is_blocking: bool) -> None:
    """The report is where lines are missing, its number is that of the metric, and later lines follow it."""
    os.set_blocking(pipe.end, is_blocking)
    lines = numbered(0, LINES)
    write(pipe, lines)
    dropped = pipe.writer.dropped
    read = pipe.read_all()
    kept = LINES - dropped
    assert 0 < dropped < LINES
    assert read == [*lines[:kept], f"dropped {dropped}"]
    write(pipe, ["later"])
    assert pipe.read_all() == ["later"]
    assert pipe.writer.dropped == dropped


def test_every_stop_of_the_reader_is_reported(pipe: Pipe) -> None:
    """The second time is like the first, and the reports add up to the metric."""
    reported = 0
    for _ in range(3):
        write(pipe, numbered(0, LINES))
        reported += sum(int(line.split()[1]) for line in pipe.read_all() if line.startswith("dropped"))
        assert reported == pipe.writer.dropped


def test_slow_reader_gets_few_reports(pipe: Pipe) -> None:
    """A reader that is slower than the log gets whole lines, and reports for a small part of them."""
    os.set_blocking(pipe.reader, False)
    text = b""
    for line in numbered(0, 5 * LINES):
        write(pipe, [line])
        text += os.read(pipe.reader, 60) if pipe._is_filled() else b""
    lines = (text.decode() + "\n".join(["", *pipe.read_all()])).replace("\n\n", "\n").splitlines()
    reports = [line for line in lines if line.startswith("dropped")]
    assert 1 <= len(reports) < len(lines) / 10


@pytest.mark.parametrize("size", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 100_000])
def test_line_larger_than_a_chunk_or_the_buffer_is_written_whole(pipe: Pipe, size: int) -> None:
    """A long traceback is neither cut nor dropped when nothing else waits, and memory stays bounded after it."""
    write(pipe, ["y" * size])
    write(pipe, numbered(0, LINES))
    read = pipe.read_all()
    assert read[0] == "y" * size
    assert len(read) <= 200


def test_drain_returns_within_its_time(pipe: Pipe) -> None:
    """A reader that has stopped cannot hold the exit."""
    write(pipe, numbered(0, LINES))
    started = time.monotonic()
    assert not pipe.writer.drain(0.2)
    assert time.monotonic() - started < 10
    assert pipe.read_all()
    assert pipe.writer.drain(0.2)


def test_full_disk_is_counted_and_reported_when_there_is_space_again(tmp_path: Path) -> None:
    """Lines that cannot be written count as dropped; the reader of the file learns how many."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = BackgroundWriter(descriptor, lambda count: b"dropped %d\n" % count)
    writer.start()
    for line in numbered(0, 10):
        writer.write(line.encode() + b"\n")
    assert writer.drain(20)
    assert writer.dropped == 10
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), descriptor)
    writer.write(b"there is space\n")
    assert writer.drain(20)
    assert (tmp_path / "log").read_text().splitlines() == ["there is space", "dropped 10"]
    os.close(descriptor)


def test_closed_reader_is_survived() -> None:
    """Lines for a pipe without a reader are dropped and counted, one by one or many at once."""
    reader, end = os.pipe()
    writer = BackgroundWriter(end, lambda count: b"dropped %d\n" % count)
    writer.start()
    os.close(reader)
    for line in numbered(0, LINES):
        writer.write(line.encode() + b"\n")
    assert writer.drain(20)
    assert writer.dropped == LINES
    os.close(end)


@pytest.mark.parametrize("level", ["debug", "error"])
@pytest.mark.parametrize("layout", ["json", "console"])
def test_report_has_the_layout_of_the_log_at_every_level(layout: logs.LogFormat, level: str, tmp_path: Path) -> None:
    """The report is one line like all others; a log that shows errors only also says that some are missing."""
    with (tmp_path / "log").open("w") as stream:
        logs.configure(level, layout, stream)
        line = logs.render_dropped(7)
    structlog.reset_defaults()
    assert line.count(b"\n") == 1
    if layout == "json":
        event = json.loads(line)
        assert (event["event"], event["level"], event["count"]) == ("log_lines_dropped", "error", 7)
        assert event["remedy"]
    else:
        assert b"log_lines_dropped" in line
        assert b"count=7" in line


def test_everything_that_writes_to_standard_error_is_in_the_background() -> None:
    """Warnings, tracebacks of threads and prints cannot block either, and are flushed at exit."""
    program = """
import sys, threading, warnings
from flowstate_daemon.base import logs
logs.write_in_background()
warnings.warn("a warning", stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
print("a print", file=sys.stderr)
logs.configure("info", "json")
import structlog
structlog.get_logger().info("an_event")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for text in ("a warning", "ZeroDivisionError", "a print", "an_event"):
        assert text in done.stderr

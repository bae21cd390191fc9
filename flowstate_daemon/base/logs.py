"""Log configuration: one line per event, as JSON or as console columns, both redacted in the same way.

`configure` is called once at process start. Modules only use `log = structlog.get_logger()`. Records of the standard
library's `logging` pass through the same processors.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Literal, TextIO, TypeAlias

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.log_writer import BackgroundWriter
from flowstate_daemon.base.redaction import escape_control_chars, redact_text, redact_value

LogFormat: TypeAlias = Literal["auto", "json", "console"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
JOURNAL_PREFIX = {"critical": b"<2>", "error": b"<3>", "warning": b"<4>", "info": b"<6>", "debug": b"<7>"}
# Access lines for every scrape and tracebacks for malformed requests of anonymous clients would fill the disk.
QUIET_LOGGERS = ("aiohttp.access", "aiohttp.server")
MAX_FRAMES = 12  # of each exception, counted from where it was raised
MAX_CAUSES = 5  # of a chain of causes, and members of an exception group
THROTTLE_INTERVAL_S = 60.0
FLUSH_TIMEOUT_S = 1.0  # at exit, for a reader that is slow or has stopped


class StreamLogger:
    """Writes whole lines. A full disk or a closed pipe loses log lines, but never an email."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream.buffer

    def msg(self, line: bytes) -> None:
        try:
            self._stream.write(line + b"\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = log = msg


class StdlibHandler(logging.Handler):
    """Passes records of other libraries to our processors, as the event `library_log`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)  # wrong arguments are the library's bug; the line is still logged
        level = max((known for known in LEVELS.values() if known <= record.levelno), default=LEVELS["debug"])
        log = structlog.get_logger()
        log.log(level, "library_log", logger=record.name, message=message, exc_info=record.exc_info)


def write_in_background() -> None:
    """Let a thread write standard error from now on, also for warnings and tracebacks: nothing that logs can block.

    At exit, what is still buffered is written for a bounded time.
    """
    try:
        writer = BackgroundWriter(sys.stderr.fileno(), render_dropped)
    except io.UnsupportedOperation:  # a stream in memory has no reader
        return
    writer.start()
    sys.stderr = io.TextIOWrapper(writer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    atexit.register(writer.drain, FLUSH_TIMEOUT_S)


def dropped_lines() -> int:
    """The number of log lines that the reader of standard error did not take."""
    writer = getattr(sys.stderr, "buffer", None)
    return writer.dropped if isinstance(writer, BackgroundWriter) else 0


def render_dropped(count: int) -> bytes:
    """The line that reports dropped lines, in the layout of the log, whatever its level."""
    line: Any = {
        "event": "log_lines_dropped",
        "count": count,
        "remedy": "the reader of the log had stopped, or its disk was full: check the terminal, pipe or log driver",
    }
    for processor in structlog.get_config()["processors"]:
        if not isinstance(processor, LevelFilter):
            line = processor(None, "error", line)
    return bytes(line) + b"\n"


def configure(
    level: str, layout: LogFormat = "auto", stream: TextIO | None = None, *, journal: str = "", colors: bool = True
) -> None:
    """Set the log up for this process; a second call replaces the first for loggers not used yet.

    `stream` defaults to standard error, so that the output of commands stays parseable. `journal` is the value of
    `$JOURNAL_STREAM`: if it names this stream, each line starts with its syslog priority. `colors` is for terminals.
    """
    stream = stream or sys.stderr
    structlog.configure(
        processors=_processors(level, layout, stream, journal, colors),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS["debug"]),  # `LevelFilter` decides, and can change
        logger_factory=lambda *_: StreamLogger(stream),
        cache_logger_on_first_use=True,
    )
    _capture_stdlib_logging(max(logging.WARNING, LEVELS[level.lower()]))


def reconfigure(level: str, layout: LogFormat, *, journal: str = "", colors: bool = True) -> None:
    """Change level and layout of the running log on standard error, for all loggers, used or not."""
    # Loggers that were used share the list itself, so it is changed in place.
    structlog.get_config()["processors"][:] = _processors(level, layout, sys.stderr, journal, colors)
    _capture_stdlib_logging(max(logging.WARNING, LEVELS[level.lower()]))


def _processors(level: str, layout: LogFormat, stream: TextIO, journal: str, colors: bool) -> list[Processor]:
    to_journal = is_journal(stream, journal)
    console = layout == "console" or (layout == "auto" and not to_journal and stream.isatty())
    return [
        LevelFilter(LEVELS[level.lower()]),
        *build_processors(console=console, colors=colors and stream.isatty(), journal=to_journal),
    ]


class LevelFilter:
    """Drops events below the level before any other processor runs."""

    def __init__(self, least: int) -> None:
        self._least = least

    def passes(self, method: str) -> bool:
        return LEVELS.get(method, self._least) >= self._least

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if not self.passes(method):
            raise structlog.DropEvent
        return event


def is_enabled(level: str) -> bool:
    """Whether events of this level are logged. To ask takes a fifth of the time of making an event that is dropped."""
    first = structlog.get_config()["processors"][0]
    return not isinstance(first, LevelFilter) or first.passes(level)


def build_processors(*, console: bool = False, colors: bool = False, journal: bool = False) -> list[Processor]:
    """The processors of one log line, in order: redaction runs after every processor that adds text."""
    head: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        format_exception,
        redact_event,
    ]
    if not console:
        return [*head, render_journald if journal else render_json]
    columns = structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
    return [*head, escape_event, columns, encode_utf8]


def is_journal(stream: TextIO, journal: str) -> bool:
    """Whether `stream` is the socket that systemd connected to the journal, given as `device:inode`."""
    if not journal:
        return False
    try:
        place = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{place.st_dev}:{place.st_ino}"


def format_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by a short text: types, messages, locations; no source lines, no local variables."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(
            format_traceback(traceback.TracebackException.from_exception(error, lookup_lines=False))
        )
    return event


def format_traceback(error: traceback.TracebackException, depth: int = 0) -> Iterator[str]:
    """The lines that describe an exception, the members of its group and its causes."""
    yield from (line.rstrip("\n") for line in error.format_exception_only())
    for frame in error.stack[-MAX_FRAMES:]:
        yield f"  at {_shorten_path(frame.filename)}:{frame.lineno} {frame.name}"
    if depth >= MAX_CAUSES:
        return
    for member in (error.exceptions or [])[:MAX_CAUSES]:
        yield from (f"  | {line}" for line in format_traceback(member, depth + 1))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        first, *rest = format_traceback(cause, depth + 1)
        yield f"after {first}"
        yield from rest


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Redact all values, and put timestamp, level and event first."""
    line = {"timestamp": event.pop("timestamp"), "level": event.pop("level")}
    line["event"] = redact_value("event", event.pop("event", ""))
    for name, value in event.items():
        line[redact_text(name)] = redact_value(name, value)
    return line


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return msgspec.json.encode(event)


def render_journald(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    return JOURNAL_PREFIX.get(event["level"], b"<6>") + render_json(logger, method, event)


def escape_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters for the terminal. Only an exception keeps its line breaks, indented."""
    line = {escape_control_chars(name): _escape_value(value) for name, value in event.items() if name != "exception"}
    if "exception" in event:
        line["exception"] = "\n".join(f"    {escape_control_chars(part)}" for part in event["exception"].split("\n"))
    return line


def encode_utf8(_logger: WrappedLogger, _method: str, text: Any) -> bytes:
    return str(text).encode("utf-8", "backslashreplace")


def _escape_value(value: Any) -> Any:
    """Numbers keep their type, which sets the colour; every other value becomes one line of text."""
    return (
        value
        if isinstance(value, int | float)
        else escape_control_chars(value if isinstance(value, str) else repr(value))
    )


def _shorten_path(path: str) -> str:
    return path.rpartition("/site-packages/")[2] or path


def _capture_stdlib_logging(level: int) -> None:
    root = logging.getLogger()
    for handler in [known for known in root.handlers if isinstance(known, StdlibHandler)]:
        root.removeHandler(handler)
    root.addHandler(StdlibHandler())
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


class LogThrottle:
    """Allows one log line a minute and counts the rest: what happens again and again must not fill the log."""

    def __init__(self, clock: Clock, interval_s: float = THROTTLE_INTERVAL_S) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._next_at = clock.monotonic()
        self._suppressed = 0

    def acquire(self) -> int | None:
        """The number of lines suppressed since the last one; None when this one must be suppressed too."""
        now = self._clock.monotonic()
        if now < self._next_at:
            self._suppressed += 1
            return None
        suppressed, self._suppressed, self._next_at = self._suppressed, 0, now + self._interval_s
        return suppressed

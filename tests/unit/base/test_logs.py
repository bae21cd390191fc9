"""Logging: one line per event, redaction, and the same format for other libraries."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import category

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstate_daemon.base import logs

CODES = st.from_regex(r"[qxz]{4}[0-9]{6,12}", fullmatch=True)
FIELDS = st.dictionaries(st.text(min_size=1, max_size=8), st.text() | st.binary() | st.floats() | st.integers())
RESERVED = {"event", "level", "timestamp", "exc_info", "exception", "stack", "logger", "stack_info"}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog and logging as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    for name in logs.QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


class Page:
    """A stream to log to, and what was written on it."""

    def __init__(self, level: str = "debug", layout: logs.LogFormat = "json") -> None:
        self._bytes = io.BytesIO()
        self.stream = io.TextIOWrapper(self._bytes)
        logs.configure(level, layout, self.stream)
        self.log = structlog.get_logger()

    @property
    def text(self) -> str:
        return self._bytes.getvalue().decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.text.splitlines()]


def test_line_begins_with_time_level_and_event() -> None:
    """The first three columns are the same in every line."""
    page = Page()
    page.log.info("mail_sent", job_id="7", kind="otp")
    assert list(page.events[0]) == ["timestamp", "level", "event", "job_id", "kind"]
    assert page.events[0]["level"] == "info"
    assert page.events[0]["timestamp"].endswith("Z")


def test_line_contains_bound_context() -> None:
    """Values bound to the context are in each line."""
    page = Page()
    with structlog.contextvars.bound_contextvars(instance="one", otpCode="123456"):
        page.log.info("hello")
    assert page.events[0]["instance"] == "one"
    assert page.events[0]["otpCode"] == "[redacted]"


@pytest.mark.parametrize("layout", ["json", "console"])
@given(event=st.text(), fields=FIELDS, code=CODES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_event_is_one_line_without_the_code(
    layout: logs.LogFormat, event: str, fields: dict[str, Any], code: str
) -> None:
    """Whatever text an event contains, it is one line without control characters and secrets."""
    page = Page(layout=layout)
    named = {name: value for name, value in fields.items() if name not in RESERVED}
    page.log.msg(event) if not named else page.log.bind(**named).info("e", said=event, otpCode=code)
    page.log.bind(context={"otpCode": code, "to": event}).warning("second")
    lines = page.text.splitlines()
    assert len(lines) == 2
    assert not any(category(char) in ("Cc", "Zl", "Zp") for line in lines for char in line)
    assert code not in page.text


def test_line_when_value_has_escape_sequences() -> None:
    """Newlines and escape sequences in a value are escaped."""
    page = Page(layout="console")
    page.log.info("mail_sent", kind="otp\n2026-01-01 [info] all_well\x1b[2J")
    assert len(page.text.splitlines()) == 1
    assert "\x1b" not in page.text


@pytest.mark.parametrize("layout", ["json", "console"])
def test_exception_shows_places_and_causes(layout: logs.LogFormat) -> None:
    """Types, messages and places; no local variables, source lines or addresses."""

    def fail() -> None:
        hidden_local = "s3cr3t-in-a-variable"
        try:
            {}[len(hidden_local)]
        except KeyError as error:
            raise ValueError("no mail for ada@example.org\nforged_line") from error

    page = Page(layout=layout)
    try:
        fail()
    except ValueError:
        page.log.exception("handler_error")
    output = page.events[0]["exception"] if layout == "json" else page.text
    assert "ValueError: no mail for a***@example.org" in output
    assert "after KeyError: 20" in output
    assert "test_logs.py" in output
    assert "s3cr3t" not in output
    assert "hidden_local" not in output
    assert layout == "json" or all(line.startswith("    ") for line in page.text.splitlines()[1:])


def test_exception_group_shows_all_members() -> None:
    """All errors of a task group are logged, not only their number."""
    page = Page()
    page.log.error("house_fell", exc_info=ExceptionGroup("tasks", [ValueError("one"), OSError("two")]))
    assert "ValueError: one" in page.events[0]["exception"]
    assert "OSError: two" in page.events[0]["exception"]


def test_library_logs_use_the_same_format() -> None:
    """Warnings of libraries are logged; their debug output and the access log are not."""
    page = Page(level="debug")
    logging.getLogger("redis").warning("lost %s", "ada@example.org")
    logging.getLogger("redis").info("chatter")
    logging.getLogger("aiohttp.access").error("GET /health/live")
    logging.getLogger("redis").log(35, "a level of its own")
    assert [event["message"] for event in page.events] == [
        "lost a***@example.org",
        "a level of its own",
    ]
    assert page.events[0]["event"] == "library_log"
    assert page.events[0]["logger"] == "redis"
    assert page.events[1]["level"] == "warning"


def test_library_log_when_arguments_do_not_match() -> None:
    """The message is logged without an exception."""
    page = Page()
    record = logging.LogRecord("redis", logging.WARNING, __file__, 1, "wrong %s %s", ("arguments",), None)
    logs.StdlibHandler().emit(record)
    assert page.events[0]["message"] == "wrong %s %s"


def test_configure_when_called_twice() -> None:
    """Lines of libraries are not doubled, for instance in one test process."""
    Page()
    page = Page()
    logging.getLogger("redis").warning("once")
    assert len(page.events) == 1


def test_events_below_the_level_are_not_logged() -> None:
    """The level is a filter."""
    page = Page(level="warning")
    page.log.info("no")
    page.log.warning("yes")
    assert [event["event"] for event in page.events] == ["yes"]


@pytest.mark.parametrize("level", logs.LEVELS)
def test_is_enabled_says_what_is_logged(level: str) -> None:
    """At every level of the log; and everything is enabled for a test that captures events."""
    page = Page(level=level)
    for method in logs.LEVELS:
        before = len(page.events)
        getattr(page.log, method)("event")
        assert logs.is_enabled(method) == (len(page.events) > before)
    with structlog.testing.capture_logs():
        assert logs.is_enabled("debug")


def test_priorities_only_for_the_systemd_journal(tmp_path: Path) -> None:
    """Lines have `<n>` only if the stream is the socket that systemd announced."""
    with (tmp_path / "journal").open("w+") as stream:
        place = os.fstat(stream.fileno())
        logs.configure("debug", "auto", stream, journal=f"{place.st_dev}:{place.st_ino}")
        log = structlog.get_logger()
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)("e")
        logs.configure("debug", "auto", stream, journal="1:2")
        structlog.get_logger().info("e")
    lines = (tmp_path / "journal").read_text().splitlines()
    assert [line[:3] for line in lines[:5]] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert lines[5].startswith("{")
    assert not logs.is_journal(io.TextIOWrapper(io.BytesIO()), "1:2")


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_layout_when_terminal() -> None:
    """`auto` means columns on a terminal and JSON elsewhere; `json` means JSON everywhere."""
    written = {}
    for layout in ("auto", "json"):
        buffer = io.BytesIO()
        logs.configure("info", layout, Terminal(buffer))
        structlog.get_logger().info("hello")
        written[layout] = buffer.getvalue()
    assert b"{" not in written["auto"]
    assert written["json"].startswith(b"{")


def test_log_when_stream_is_broken() -> None:
    """A full disk or a closed pipe does not stop the daemon."""
    page = Page()
    page.stream.close()
    page.log.info("nobody_hears")


def test_log_goes_to_standard_error_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard output of commands stays parseable."""
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(buffer))
    logs.configure("info", "json")
    structlog.get_logger().info("hello")
    assert b"hello" in buffer.getvalue()

"""The result of one check: its name, its level, the finding, and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of `check`.

    `unreachable`: a datastore or the provider did not respond. `misconfigured`: `run` would exit with 78.
    """

    name: str
    level: Level
    message: str
    remedy: str = ""
    unreachable: bool = False
    misconfigured: bool = False


def ok(name: str, message: str) -> CheckResult:
    return CheckResult(name, Level.OK, message)


def warn(name: str, message: str, remedy: str) -> CheckResult:
    return CheckResult(name, Level.WARN, message, remedy)


def fail(name: str, message: str, remedy: str) -> CheckResult:
    return CheckResult(name, Level.FAIL, message, remedy)


def unreachable(name: str, message: str, remedy: str = "") -> CheckResult:
    """The server did not respond, so nothing else is known about it."""
    return CheckResult(name, Level.FAIL, message, remedy, unreachable=True)

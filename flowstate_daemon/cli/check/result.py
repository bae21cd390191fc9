"""One line of `check`: what was looked at, how it is graded, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How a finding is graded."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of `check`. `unreachable`: a store or the provider did not answer; `misconfigured`: `run` exits 78."""

    name: str
    grade: Level
    message: str
    remedy: str = ""
    unreachable: bool = False
    misconfigured: bool = False


def ok(subject: str, finding: str) -> CheckResult:
    return CheckResult(subject, Level.OK, finding)


def warn(subject: str, finding: str, remedy: str) -> CheckResult:
    return CheckResult(subject, Level.WARN, finding, remedy)


def fail(subject: str, finding: str, remedy: str) -> CheckResult:
    return CheckResult(subject, Level.FAIL, finding, remedy)


def unreachable(subject: str, finding: str, remedy: str = "") -> CheckResult:
    """A failure of the way there: nothing is known of what stands at its end."""
    return CheckResult(subject, Level.FAIL, finding, remedy, unreachable=True)

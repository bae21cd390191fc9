"""One line of `check`: what was looked at, how it is graded, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """How a finding is graded."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of `check`. `unreachable`: a store or the provider did not answer; `misconfigured`: `run` exits 78."""

    subject: str
    grade: Grade
    finding: str
    remedy: str = ""
    unreachable: bool = False
    misconfigured: bool = False


def ok(subject: str, finding: str) -> Verdict:
    return Verdict(subject, Grade.OK, finding)


def warn(subject: str, finding: str, remedy: str) -> Verdict:
    return Verdict(subject, Grade.WARN, finding, remedy)


def fail(subject: str, finding: str, remedy: str) -> Verdict:
    return Verdict(subject, Grade.FAIL, finding, remedy)


def unreachable(subject: str, finding: str, remedy: str = "") -> Verdict:
    """A failure of the way there: nothing is known of what stands at its end."""
    return Verdict(subject, Grade.FAIL, finding, remedy, unreachable=True)

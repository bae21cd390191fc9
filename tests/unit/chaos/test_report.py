"""docs/reliability.md is what the command writes from docs/reliability.json, and shows what does not hold."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from tests.chaos.report import FIGURES, FINDINGS, PAGE, machine, render

ROOT = Path(__file__).parents[3]
EXCEPTIONS = {
    "parked": 1, "gave_up": 0, "refused": 4, "code_twice": 0, "unrecorded": 0, "scheduled_unknown": 0,
}  # fmt: skip


def chaos(**changes: Any) -> dict[str, Any]:
    row = {
        "plan": {"seed": 5, "seconds": 60.0, "redis": "pair", "daemons": 2, "bull": True, "rate": 40.0},
        "seconds": 90.0, "faults": {"kill": 3, "redis-failover": 2}, "emails": 2400, "codes": 240, "scheduled": 30,
        "processes": 5, "unknown": 9, "lost_with_redis": 7, "lost_after_sending": 2,
        "exceptions": EXCEPTIONS,
        "violations": [], **changes,
    }  # fmt: skip
    return {"chaos": {"machine": machine(), "rounds": [row]}}


def test_the_page_is_the_one_that_the_command_writes() -> None:
    """The committed page and its figures belong together."""
    assert PAGE.read_text() == render(json.loads(FIGURES.read_text()))


def test_the_page_shows_what_was_measured() -> None:
    page = render(chaos())
    assert "| kill | kill -9 of a daemon, which starts again | 3 |" in page
    assert "| a primary and a replica behind one address | 1 | 1 | 2,400 | 7 | 2 |" in page
    assert "Violations of the statements above: **0**" in page
    assert "## Soak" not in page


def test_the_page_does_not_hide_a_violation() -> None:
    page = render(chaos(violations=[{"invariant": "sent once", "text": "twice", "to": None}]))
    assert "Violations of the statements above: **1**" in page


def test_each_finding_names_a_test_that_exists() -> None:
    """`file::function`, as pytest takes it."""
    for finding in tomllib.loads(FINDINGS.read_text()).get("findings", []):
        file, _, function = finding["test"].partition("::")
        assert f"def {function}(" in (ROOT / file).read_text()

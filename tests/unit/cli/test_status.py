"""The first line of `status`."""

from __future__ import annotations

import pytest

from flowstate_daemon.cli.status import format_heading


@pytest.mark.parametrize(
    ("problems", "heading"), [(0, "healthy at now UTC"), (1, "1 problem at now UTC"), (2, "2 problems at now UTC")]
)
def test_heading_counts_the_problems(problems: int, heading: str) -> None:
    """One problem is not `1 problems`."""
    assert format_heading(problems, "now") == heading

"""The usage texts of `make chaos` and `make soak` are commands that make accepts."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.source_strings import ROOT


@pytest.mark.parametrize("name", ["chaos", "soak"])
def test_usage_passes_the_options_through_make(name: str) -> None:
    """In ARGS and quoted, because make would take them for its own; every option is there."""
    command = [sys.executable, "-m", "tests.chaos" if name == "chaos" else "tests.chaos.soak", "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    usage, _, rest = text.partition("\n\n")
    found = re.fullmatch(rf"usage: make {name} ARGS='(.*)'", " ".join(usage.split()))
    assert found is not None, usage
    options = set(re.findall(r"^  (--[a-z-]+)", rest, re.MULTILINE))
    assert set(re.findall(r"\[(--[a-z-]+)", found[1])) == options != set()

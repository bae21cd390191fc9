"""The functions that docs/architecture.md and the decisions name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PACKAGE = ROOT / "flowstate_daemon"
REFERENCE = re.compile(r"`([a-z_/]+\.py): ([A-Za-z_.]+)`")
PAGES = (ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "adr").glob("*.md")))


def members(module: Path) -> set[str]:
    """Top-level names of a module and `Class.member` for what its classes define or assign."""
    found: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
            for part in ast.walk(node):
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(f"{node.name}.{part.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_functions_named_in_a_page_exist(page: Path) -> None:
    """A reader who follows `module.py: name` finds that name in that module."""
    missing = [
        f"{module}: {name}"
        for module, name in REFERENCE.findall(page.read_text(encoding="utf-8"))
        if not (PACKAGE / module).is_file() or name not in members(PACKAGE / module)
    ]
    assert missing == []


def test_the_walks_name_functions() -> None:
    """The two walks consist of such references, so the check above covers them."""
    assert len(REFERENCE.findall(PAGES[0].read_text(encoding="utf-8"))) >= 40

"""The log events of the code, read from its syntax tree: name, level and fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from tests.docs.pages import ROOT

LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
LEVELS |= {"critical": "critical"}
NOT_FIELDS = {"exc_info"}


@dataclass(frozen=True, slots=True)
class Event:
    """One logging call; `open`: it adds fields that are not literal keywords."""

    name: str
    level: str
    fields: frozenset[str]
    open: bool


def events() -> Iterator[Event]:
    """Every `log.warning("name", field=…)` of the package."""
    for file in sorted((ROOT / "flowstate_daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and (event := _event(node)) is not None:
                yield event


def _event(call: ast.Call) -> Event | None:
    func = call.func
    if not (isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == "log"):
        return None
    level = LEVELS.get(func.attr)
    if level is None or not call.args or not isinstance(call.args[0], ast.Constant):
        return None
    fields = {keyword.arg for keyword in call.keywords if keyword.arg is not None} - NOT_FIELDS
    extra = any(keyword.arg is None for keyword in call.keywords)
    return Event(str(call.args[0].value), level, frozenset(fields), extra)

"""Parses the part of PromQL that tests need: the metrics of an expression, with their labels and values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TEXT = r'"(?:[^"\\]|\\.)*"'
SELECTOR = re.compile(rf"([a-zA-Z_:][\w:]*)?\s*\{{((?:[^{{}}\"]|{TEXT})*)\}}")
MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({TEXT})")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WINDOW = re.compile(r"\[[^\]]*\]")
NAME = re.compile(r"(?<![\w.])[a-zA-Z_:][\w:]*")  # not the unit of a number
OPERATORS = frozenset({"and", "or", "unless", "bool", "offset"})


@dataclass(frozen=True, slots=True)
class Selector:
    """One selector: a metric, and the values that each of its labels is compared with."""

    metric: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()


def selectors(expression: str) -> list[Selector]:
    """Every metric that the expression names, with its matchers."""
    found = [Selector(name, tuple(_matchers(inside))) for name, inside in SELECTOR.findall(expression)]
    rest = WINDOW.sub(" ", GROUPING.sub(" ", SELECTOR.sub(" ", expression)))
    for match in NAME.finditer(re.sub(TEXT, " ", rest)):
        is_function = rest[match.end() :].lstrip().startswith("(")
        if not is_function and match[0] not in OPERATORS:
            found.append(Selector(match[0]))
    return found


def grouped_by(expression: str) -> set[str]:
    """The labels that the expression groups or joins by."""
    return {label.strip() for inside in GROUPING.findall(expression) for label in inside.split(",") if label.strip()}


def _matchers(inside: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for label, operator, text in MATCHER.findall(inside):
        value = text[1:-1]
        yield label, tuple(value.split("|")) if operator in {"=~", "!~"} else (value,)

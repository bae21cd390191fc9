"""The texts that the daemon's source passes to given calls: found in the syntax tree, with `{}` for what varies."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[2]
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
VARYING = "{}"
NAMES_OF_TEXTS = {"reason", "finding", "remedy", "note", "wrong_state"}


class SourceModule:
    """One module with its constants, and those that it imports from this project."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.unresolved: set[str] = set()

    def texts_of(self, call_names: Collection[str], position: Mapping[str, int]) -> Iterator[str]:
        """The texts of the argument at `position` (by the name of the call, else the first) of each such call.

        It may also be given by one of NAMES_OF_TEXTS.
        """
        for function, call in self._calls(self.tree, None):
            name = called_name(call)
            if name in call_names:
                index = position.get(name, 0)
                named = [keyword.value for keyword in call.keywords if keyword.arg in NAMES_OF_TEXTS]
                for argument in call.args[index : index + 1] or named:
                    yield from self.resolve(argument, function)

    def texts_returned_by(self, name: str) -> list[str]:
        """Every text that the function of this name returns or yields."""
        return self._returned(self._functions[name])

    def texts_assigned_to(self, name: str) -> list[str]:
        """Every text that a variable of this name gets, in any function."""
        return [text for function in self._functions.values() for text in self._assigned(name, function)]

    def texts_of_constants(self, ending: str) -> list[str]:
        """The texts of the constants whose names end like this."""
        names = [name for name in self._constants if name.endswith(ending)]
        return [fill(text) for name in names for text in self.resolve(self._constants[name], None)]

    def _calls(self, node: ast.AST, function: Function | None) -> Iterator[tuple[Function | None, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                yield inner, child
            yield from self._calls(child, inner)

    def resolve(self, node: ast.expr, function: Function | None) -> list[str]:
        """Every text that the expression may be; what the source does not say is noted as unresolved."""
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if parts := alternatives(node):
            return [text for part in parts for text in self.resolve(part, function)]
        match node:
            case ast.JoinedStr():
                return self._joined(node, function)
            case ast.BinOp(op=ast.Add()):
                pairs = product(self.resolve(node.left, function), self.resolve(node.right, function))
                return [left + right for left, right in pairs]
            case ast.Name(id=name):
                return self._named(name, function)
            case ast.Call(func=ast.Attribute(attr="format", value=template)):
                return [fill(text) for text in self.resolve(template, function)]
            case ast.Call(func=ast.Name(id=name)) if name in self._functions:
                return self._returned(self._functions[name])
        self.unresolved.add(f"{self.path.stem}: {ast.unparse(node)}")
        return []

    def _joined(self, node: ast.JoinedStr, function: Function | None) -> list[str]:
        choices: list[list[str]] = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                choices.append([str(part.value)])
                continue
            assert isinstance(part, ast.FormattedValue)
            known = self.unresolved.copy()
            found = self.resolve(part.value, function) if isinstance(part.value, ast.Name | ast.IfExp) else []
            self.unresolved = known  # what varies needs no translation
            # Only texts without anything that varies are put in; the others are found where they are made.
            choices.append(found if found and all(VARYING not in text for text in found) else [VARYING])
        return ["".join(parts) for parts in product(*choices)]

    def _named(self, name: str, function: Function | None) -> list[str]:
        if function is not None and (values := list(assigned_values(name, function))):
            return [text for value in values for text in self.resolve(value, function)]
        if name in self._constants:
            return self.resolve(self._constants[name], None)
        if name in self._imports:
            return load_module(self._imports[name])._named(name, None)
        self.unresolved.add(f"{self.path.stem}: {name}")
        return []

    def _assigned(self, name: str, function: Function) -> list[str]:
        return [text for value in assigned_values(name, function) for text in self.resolve(value, function)]

    def _returned(self, function: Function) -> list[str]:
        nodes = [node for node in ast.walk(function) if isinstance(node, ast.Return | ast.Yield)]
        return [text for node in nodes if node.value is not None for text in self.resolve(node.value, function)]

    @cached_property
    def _functions(self) -> dict[str, Function]:
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}

    @cached_property
    def _constants(self) -> dict[str, ast.expr]:
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                found[node.target.id] = node.value
        return found

    @cached_property
    def _imports(self) -> dict[str, Path]:
        found = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowstate_daemon."):
                path = ROOT / f"{(node.module or '').replace('.', '/')}.py"
                if path.exists():
                    found |= {alias.name: path for alias in node.names}
        return found


def alternatives(node: ast.expr) -> list[ast.expr]:
    """The expressions of which one is the value; none for an expression of another kind."""
    match node:
        case ast.IfExp(body=first, orelse=second):
            return [first, second]
        case ast.BoolOp(values=values) | ast.Dict(values=values) | ast.Tuple(elts=values):
            return values
        case ast.Subscript(value=ast.Dict(values=values)):
            return values
        case ast.Call(func=ast.Attribute(attr="get", value=table), args=[_, *default]):
            return [table, *default]
    return []


def assigned_values(name: str, function: Function) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield node.value


def called_name(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def fill(template: str) -> str:
    """A template of `str.format` with `{}` for each of its fields."""
    return "".join(VARYING if part.startswith("{") else part for part in re.split(r"(\{[^{}]*\})", template))


def find_subclasses(package: Path, base: str) -> set[str]:
    """The names of the classes of a package that derive from `base`, and `base` itself."""
    nodes = (node for path in package.rglob("*.py") for node in ast.walk(load_module(path).tree))
    bases = {
        node.name: {parent.id for parent in node.bases if isinstance(parent, ast.Name)}
        for node in nodes
        if isinstance(node, ast.ClassDef)
    }
    found = {base}
    while more := {name for name, parents in bases.items() if parents & found} - found:
        found |= more
    return found


_MODULES: dict[Path, SourceModule] = {}


def load_module(path: Path) -> SourceModule:
    if path not in _MODULES:
        _MODULES[path] = SourceModule(path)
    return _MODULES[path]

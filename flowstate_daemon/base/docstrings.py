"""The docstrings of attributes, read from the source of this project when something asks for them.

pydantic can collect them (`use_attribute_docstrings`), but does so for each class at the import. That took 20 ms for
the settings and 30 ms for the models of the API, at every start, and few processes show a description.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

PACKAGE = __name__.partition(".")[0]


def attribute_docstrings(cls: type) -> Mapping[str, str]:
    """What each attribute of a class means: the string below its definition, there or in a base class.

    The class, and its base classes of this project, are at the top of their modules. Raises OSError when their source
    is not installed.
    """
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if each.__module__.partition(".")[0] == PACKAGE:
            found |= _docstrings_by_class(each.__module__).get(each.__qualname__, {})
    return found


@cache
def _docstrings_by_class(module: str) -> Mapping[str, Mapping[str, str]]:
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    return {each.name: dict(_docstrings(each.body)) for each in tree.body if isinstance(each, ast.ClassDef)}


def _docstrings(statements: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for definition, docstring in pairwise(statements):
        match definition, docstring:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)

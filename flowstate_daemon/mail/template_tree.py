"""Rewrites parsed templates, so that an email is rendered in half the time. What they print stays the same. Pure.

Jinja calls a function through its context, copies globals for each rendering, and makes every piece of HTML a Markup
twice. Filters, constants and plain text in the place of these cost nothing like it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

CALL = "{}()"  # the filter that stands for a call of a function: no template can name it
USER_TEXT = "user_text"  # a filter that returns Markup
ISOLATED_TEXT = "user_text as text"  # what it returns before it is escaped


def rewrite(
    tree: nodes.Template, functions: AbstractSet[str], constants: Mapping[str, Any], *, html: bool
) -> nodes.Template:
    """The tree with filters for calls of `functions`, and with the values of `constants`.

    The environment needs a filter CALL for each function, and ISOLATED_TEXT. A name that the template sets itself is
    neither.
    """
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    others = {name: value for name, value in constants.items() if name not in own}
    rewritten = _Rewriter(functions - own, others, html=html).visit(tree)
    assert isinstance(rewritten, nodes.Template)
    return rewritten


class _Rewriter(NodeTransformer):
    def __init__(self, functions: AbstractSet[str], constants: Mapping[str, Any], *, html: bool) -> None:
        self._functions = functions
        self._constants = constants
        self._html = html

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        if not isinstance(node.node, nodes.Name) or node.node.name not in self._functions or not node.args:
            return node
        name, (first, *rest) = CALL.format(node.node.name), node.args
        return nodes.Filter(first, name, rest, node.kwargs, node.dyn_args, node.dyn_kwargs, lineno=node.lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802 - Jinja's name
        if node.ctx == "load" and node.name in self._constants:
            return nodes.Const(self._constants[node.name], lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        if self._html:
            node.nodes = [part for child in node.nodes for part in _without_markup(child)]
        return node


def _without_markup(child: nodes.Expr) -> Iterator[nodes.Expr]:
    if not isinstance(child, nodes.Filter) or child.name != USER_TEXT:
        yield child
        return
    child.name = ISOLATED_TEXT
    yield nodes.TemplateData("<bdi>", lineno=child.lineno)
    yield child
    yield nodes.TemplateData("</bdi>", lineno=child.lineno)

"""The rewritten templates print what Jinja prints, byte for byte, without calls through its context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from jinja2 import Environment, nodes

from flowstate_daemon.mail.template_tree import CALL, ISOLATED_TEXT, USER_TEXT, rewrite
from flowstate_daemon.mail.text_filters import UserText

NAMES = UserText("(untitled)")
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "number": str,
    "max": max,
    "pair": lambda first, second="-": f"{first}<{second}>",
}
CONSTANTS: Mapping[str, Any] = {"limit": 2, "unknown": "there"}
VALUES = {"title": "<b>Ada & \u05d0</b>", "count": 3, "rows": ["a", "<b>", "c"], "empty": "", "no": None}
SOURCES = (
    "{{ title|user_text }}, {{ title }}",
    "{{ title|user_text(4) }}{{ empty|user_text }}",
    "{{ title|user_text|upper }}{{ title|upper|user_text }}",
    "{% if title|user_text %}{{ title|user_text ~ count }}{% endif %}",
    "{{ title|user_text if count > limit else unknown }}",
    "{% set shown = title|user_text %}{{ shown }}{{ shown|length }}",
    "{% for row in rows[:limit] %}{{ row|user_text }}{{ loop.index }}{% endfor %}",
    "{{ number(max(count, limit)) }}{{ pair(number(count), second=title) }}{{ pair(title) }}",
    "{% if unknown == 'there' %}{{ unknown }}{% endif %}{% set mine = limit + 1 %}{{ mine }}",
    "{% set limit = 5 %}{{ limit }}{% for number in rows %}{{ number }}{{ max(1, 2) }}{% endfor %}",
    "{{ pair(*rows[:2]) }}{{ pair(**{'first': title}) }}{{ rows.index('c') }}{{ no is none }}",
)


def environment(*, html: bool) -> Environment:
    made = Environment(autoescape=html)
    made.globals = {}
    made.filters.update({CALL.format(name): function for name, function in FUNCTIONS.items()})
    made.filters[USER_TEXT] = NAMES.in_html if html else NAMES.in_text
    made.filters[ISOLATED_TEXT] = NAMES.in_text
    return made


def rewritten(source: str, *, html: bool) -> nodes.Template:
    return rewrite(environment(html=html).parse(source), FUNCTIONS.keys(), CONSTANTS, html=html)


@pytest.mark.parametrize("html", [True, False])
@pytest.mark.parametrize("source", SOURCES)
def test_rewritten_template_prints_the_same(source: str, *, html: bool) -> None:
    """As the untouched template with the functions and constants in its context."""
    made = environment(html=html)
    before = made.from_string(source).render({**FUNCTIONS, **CONSTANTS, **VALUES})
    tree = rewritten(source, html=html)
    # Calls without a plain first argument stay calls.
    kept = {call.node.name for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)}
    after = made.from_string(tree).render({**VALUES, **{name: FUNCTIONS[name] for name in kept}})
    assert after == before
    assert not html or "<b>Ada" not in after


def test_calls_constants_and_markup_are_gone() -> None:
    """No call goes through Jinja's context, no constant is looked up, no user text becomes Markup."""
    tree = rewritten("{{ number(max(count, limit)) }}{{ title|user_text }}", html=True)
    assert list(tree.find_all(nodes.Call)) == []
    assert {name.name for name in tree.find_all(nodes.Name)} == {"count", "title"}
    assert [found.name for found in tree.find_all(nodes.Filter)] == ["number()", "max()", ISOLATED_TEXT]

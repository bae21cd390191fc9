"""Compilation of templates at start: Jinja tags survive MJML, and invalid templates are rejected."""

from __future__ import annotations

import pytest

from flowstate_daemon.mail.catalog import built_in_catalog
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.templates import TemplateError, compile_mjml

FONT = '<mj-attributes><mj-all font-family="{}, Arial" /></mj-attributes>'
FRAME = "<mjml><mj-head>{}</mj-head><mj-body><mj-section><mj-column>{}</mj-column></mj-section></mj-body></mjml>"
TASKS = "<mj-text><ul>{% for a in tasks if 1 < 2 %}<li>{{ a & b }}</li>{% endfor %}</ul></mj-text>"


def html_of(body: str, head: str = "", font: str = "Helvetica") -> str:
    return compile_mjml(FRAME.format(head + FONT.format(font), body))


def test_compile_mjml_keeps_jinja_tags() -> None:
    """Characters that MJML rejects, loops in lists, conditions around components, attributes."""
    html = html_of(TASKS + '<mj-raw>{% if "<" %}</mj-raw><mj-button href="{{ url }}">x</mj-button>'
                   "<mj-raw>{% endif %}</mj-raw>")  # fmt: skip
    assert "<ul>{% for a in tasks if 1 < 2 %}<li>{{ a & b }}</li>{% endfor %}</ul>" in html
    assert 'href="{{ url }}"' in html
    before, button, after = html.partition("<a ")
    assert button
    assert '{% if "<" %}' in before
    assert "{% endif %}" in after


def test_compile_mjml_when_title_is_repeated() -> None:
    """MJML writes the title twice, the preview once before the body."""
    html = html_of("<mj-text>{{ body }}</mj-text>", "<mj-title>{{ t }}</mj-title><mj-preview>{{ p }}</mj-preview>")
    assert html.count("{{ t }}") == 2
    assert html.index("{{ p }}") < html.index("{{ body }}")


@pytest.mark.parametrize(
    "body",
    [
        "<mj-text>{{ x }}",
        "<mj-nonsense>{{ x }}</mj-nonsense>",
        "<mj-text><mj-button>x</mj-button></mj-text>",
        '<mj-text nonsense="{{ lost }}">x</mj-text>',
        "<mj-text>[[ word ]]</mj-text>",
        "<mj-social>{% if x %}<mj-social-element>a</mj-social-element>{% endif %}</mj-social>",
    ],
)
def test_compile_mjml_when_template_invalid(body: str) -> None:
    """Invalid markup, unknown or misplaced components and lost or moved tags are errors at start."""
    with pytest.raises(TemplateError):
        html_of(body)


@pytest.mark.parametrize("font", ["Roboto", "Ubuntu", "Open Sans"])
def test_compile_mjml_when_font_is_external(font: str) -> None:
    """MJML would load these fonts from another server, which would learn who opens an email."""
    with pytest.raises(TemplateError, match="<link"):
        html_of("<mj-text>x</mj-text>", font=font)


def test_built_in_catalog_is_shared() -> None:
    """Renderers share the compiled templates."""
    assert built_in_catalog() is built_in_catalog()
    assert built_in_catalog().templates.keys() == {(kind, locale) for kind in KINDS for locale in LOCALES}

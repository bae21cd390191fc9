"""How templates are made at start: MJML, with Jinja's tags through it, and nothing that would break a mail later."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.templates import TemplateError, build_environment, compile_mjml, compile_templates

FONT = '<mj-attributes><mj-all font-family="{}, Arial" /></mj-attributes>'
FRAME = "<mjml><mj-head>{}</mj-head><mj-body><mj-section><mj-column>{}</mj-column></mj-section></mj-body></mjml>"
TASKS = "<mj-text><ul>{% for a in tasks if 1 < 2 %}<li>{{ a & b }}</li>{% endfor %}</ul></mj-text>"


def html_of(body: str, head: str = "", font: str = "Helvetica") -> str:
    return compile_mjml(FRAME.format(head + FONT.format(font), body))


def test_jinja_travels_through_mjml_as_it_is() -> None:
    """Characters that MJML would choke on, loops within lists, conditions around whole components, attributes."""
    html = html_of(TASKS + '<mj-raw>{% if "<" %}</mj-raw><mj-button href="{{ url }}">x</mj-button>'
                   "<mj-raw>{% endif %}</mj-raw>")  # fmt: skip
    assert "<ul>{% for a in tasks if 1 < 2 %}<li>{{ a & b }}</li>{% endfor %}</ul>" in html
    assert 'href="{{ url }}"' in html
    before, button, after = html.partition("<a ")
    assert button
    assert '{% if "<" %}' in before
    assert "{% endif %}" in after


def test_the_title_may_come_out_twice() -> None:
    """As the title, and as the name of the mail for screen readers; the preview once, before the body."""
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
def test_what_would_break_a_mail_breaks_the_start(body: str) -> None:
    """Broken markup, components that do not exist or stand in the wrong place, tags that get lost or moved."""
    with pytest.raises(TemplateError):
        html_of(body)


@pytest.mark.parametrize("font", ["Roboto", "Ubuntu", "Open Sans"])
def test_nothing_is_fetched_from_elsewhere(font: str) -> None:
    """MJML would load these fonts from a stranger's server, which would see who opens which mail."""
    with pytest.raises(TemplateError, match="<link"):
        html_of("<mj-text>x</mj-text>", font=font)


@pytest.mark.parametrize("locale", LOCALES)
def test_every_kind_is_made_once(locale: str) -> None:
    """Renderers share what was made."""
    assert compile_templates(locale).keys() == KINDS.keys()
    assert compile_templates(locale) is compile_templates(locale)


def test_a_missing_word_is_found_at_start() -> None:
    """A template that asks for a word which does not exist cannot be made."""
    with pytest.raises(UndefinedError, match="nonsense"):
        build_environment().from_string("[[ nonsense ]]").render(motto="calm")

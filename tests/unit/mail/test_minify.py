"""What is taken out of MJML's output: nothing that anybody sees."""

from __future__ import annotations

import mrml
import pytest

from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.templates import compile_templates, minify_html

MJML = """<mjml><mj-head><mj-style>.a > .b , i{ color : red; }
@media (max-width: 479px) { .a { margin: 0 1px; } }</mj-style></mj-head>
<mj-body><mj-section><mj-column><mj-text css-class="c">One, two;
  <b>three</b> {curly}\u00a0
  and four</mj-text></mj-column></mj-section></mj-body></mjml>"""


def test_texts_stay_and_indents_go() -> None:
    """Blanks within lines, and those that do not break, are part of a text."""
    slimmed = minify_html(mrml.to_html(MJML).content)
    assert "One, two;\n<b>three</b> {curly}\u00a0\nand four</div>" in slimmed
    assert "\n " not in slimmed


def test_styles_say_the_same() -> None:
    """In fewer bytes."""
    slimmed = minify_html(mrml.to_html(MJML).content)
    assert ".a > .b ,i{color :red;}@media (max-width:479px){.a{margin:0 1px;}}</style>" in slimmed


def test_outlook_keeps_what_it_needs() -> None:
    """Its tables are whole, and so is what tells it the size of a pixel."""
    html = mrml.to_html(MJML).content
    slimmed = minify_html(html)
    assert "<o:PixelsPerInch>96</o:PixelsPerInch>" in slimmed
    for tag in ("<table", "</table>", "<tr>", "</tr>", "<td", "</td>"):
        assert slimmed.count(tag) == html.count(tag)
    assert slimmed.count("<!--[if mso") == slimmed.count("<![endif]-->")


@pytest.mark.parametrize("needless", ["mso 11", "X-UA-Compatible", "mj-column", "moz-text", "mj-outlook", 'class=""'])
@pytest.mark.parametrize("locale", LOCALES)
def test_no_mail_carries_what_nobody_sees(needless: str, locale: str) -> None:
    """A newer MJML that writes it another way fails here instead of making every mail heavier."""
    template = compile_templates(locale)["welcome"].html
    assert needless not in template.render(app_name="", frontend_url="", subject="", name="", unsubscribe_url=None)

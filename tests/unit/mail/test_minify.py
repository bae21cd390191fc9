"""Minification of MJML's output removes nothing visible."""

from __future__ import annotations

import mrml
import pytest

from flowstate_daemon.mail.catalog import built_in_catalog
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.templates import minify_html, template_constants

MJML = """<mjml><mj-head><mj-style>.a > .b , i{ color : red; }
@media (max-width: 479px) { .a { margin: 0 1px; } }</mj-style></mj-head>
<mj-body><mj-section><mj-column><mj-text css-class="c">One, two;
  <b>three</b> {curly}\u00a0
  and four</mj-text></mj-column></mj-section></mj-body></mjml>"""


def test_minify_html_when_text_has_spaces() -> None:
    """Spaces within lines and no-break spaces stay, indentation goes."""
    slimmed = minify_html(mrml.to_html(MJML).content)
    assert "One, two;\n<b>three</b> {curly}\u00a0\nand four</div>" in slimmed
    assert "\n " not in slimmed


def test_minify_html_when_style() -> None:
    """Styles keep their meaning in fewer bytes."""
    slimmed = minify_html(mrml.to_html(MJML).content)
    assert ".a > .b ,i{color :red;}@media (max-width:479px){.a{margin:0 1px;}}</style>" in slimmed


def test_minify_html_when_outlook_markup() -> None:
    """Outlook's tables and pixel size setting stay complete."""
    html = mrml.to_html(MJML).content
    slimmed = minify_html(html)
    assert "<o:PixelsPerInch>96</o:PixelsPerInch>" in slimmed
    for tag in ("<table", "</table>", "<tr>", "</tr>", "<td", "</td>"):
        assert slimmed.count(tag) == html.count(tag)
    assert slimmed.count("<!--[if mso") == slimmed.count("<![endif]-->")


@pytest.mark.parametrize("needless", ["mso 11", "X-UA-Compatible", "mj-column", "moz-text", "mj-outlook", 'class=""'])
@pytest.mark.parametrize("locale", LOCALES)
def test_emails_contain_no_removable_markup(needless: str, locale: str) -> None:
    """A newer MJML that writes it in another way fails here instead of enlarging every email."""
    template = built_in_catalog().templates["welcome", locale].html
    assert needless not in template.render({**template_constants("", ""), "subject": "", "name": ""})

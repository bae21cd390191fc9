"""An emulation of Outlook for Windows: what its Word engine ignores is taken out of the HTML of an email.

After https://www.caniemail.com: style sheets, padding and margins outside of cells, paragraphs and headings, rounded
corners, widths and backgrounds of `div`, and what is not meant for it in conditional comments.
"""

from __future__ import annotations

import re

FOR_OTHERS = re.compile(r"<!--\[if !mso\]><!-->.*?<!--<!\[endif\]-->", re.DOTALL)
FOR_OUTLOOK = re.compile(r"<!--\[if (?:gte )?mso[^\]]*\]>(.*?)<!\[endif\]-->", re.DOTALL)
STYLE_SHEET = re.compile(r"<style.*?</style>", re.DOTALL)
ELEMENT = re.compile(r'<(?P<tag>[a-z0-9]+)(?P<before>[^<>]*?) style="(?P<style>[^"]*)"')
KEEPS_MARGIN = {"td", "th", "p", "h1", "h2", "ul", "ol", "li"}
CELLS = {"td", "th"}
IGNORED_EVERYWHERE = re.compile(r"^(?:border-radius|max-width|overflow|display|word-break|overflow-wrap|user-select)")
IGNORED_OUTSIDE_CELLS = re.compile(r"^(?:padding|width|height|background|margin)")


def as_outlook_shows(html: str) -> str:
    """The email as far as Word understands it."""
    html = STYLE_SHEET.sub("", FOR_OTHERS.sub("", html))
    html = FOR_OUTLOOK.sub(lambda comment: "" if "<xml>" in comment[1] else comment[1], html)
    return ELEMENT.sub(_element, html)


def _element(element: re.Match[str]) -> str:
    style = element["style"].replace("mso-padding-alt", "padding")
    kept = [rule for rule in style.split(";") if rule and _is_known(element["tag"], rule.strip())]
    hidden = "display:none" in element["style"]  # the preview, which Word hides by mso-hide and a size of 0
    return f'<{element["tag"]}{element["before"]} style="{"display:none" if hidden else ";".join(kept)}"'


def _is_known(tag: str, rule: str) -> bool:
    if IGNORED_EVERYWHERE.match(rule):
        return False
    if tag in CELLS or not IGNORED_OUTSIDE_CELLS.match(rule):
        return True
    return (tag in KEEPS_MARGIN and rule.startswith("margin")) or (tag in {"table", "img"} and rule.startswith("width"))

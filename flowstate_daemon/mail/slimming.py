"""Takes out of MJML's output what no reader sees. Pure; `press` does it once at start.

Every byte of a template is rendered, compressed, sealed and sent with every mail.
"""

from __future__ import annotations

import re

# Outlook before 2007; Internet Explorer; the widths of columns, which have them anyway; comments that end where the
# next one begins.
NEEDLESS = re.compile(
    r"<!--\[if lte mso 11\]>.*?<!\[endif\]-->"
    r"|<!--\[if !mso\]><!-->.*?<!--<!\[endif\]-->"
    r"|<style[^>]*>(?:@media[^{]*\{ *)?(?:\.moz-text-html )?\.mj-column-per-100 .*?</style>"
    r"| class=\"mj-outlook-group-fix mj-column-per-100\""
    r"|<!\[endif\]--><!--\[if mso \| IE\]>",
    re.DOTALL,
)
STYLE = re.compile(r"(?<=<style type=\"text/css\">).*?(?=</style>)", re.DOTALL)
IN_STYLE = re.compile(r"\s*([{};])\s*|(?<=[,:]) +")
INDENT = re.compile(r"[ \t]*\n[ \t\n]*")


def slim(html: str) -> str:
    """The same page in fewer bytes."""
    html = NEEDLESS.sub("", html)
    html = STYLE.sub(lambda style: IN_STYLE.sub(r"\1", style[0]).strip(), html)
    return INDENT.sub("\n", html)

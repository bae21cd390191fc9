"""Folders of kinds of email as operators write them, for `mail.kinds_dir`: a tenth kind, and Polish."""

from __future__ import annotations

from pathlib import Path

BADGE: dict[str, str] = {
    "kind.toml": """priority = 10
unsubscribable = true
lifetime = "3 days"

[fields]
badgeName = "title"
points = "count"
userName = { type = "line", default = "there" }
badgeUrl = { type = "url", optional = true }
""",
    "body.mjml": """[% extends "layout.mjml" %]
[% from "parts.mjml" import action, greet, matter, say with context %]
[% block body %]
<mj-text css-class="ink">
[[ greet("user_name") ]]
[[ say(intro) ]]
[[ matter("badge_name") ]]
</mj-text>
[[ action(button, "badge_url") ]]
[% endblock %]
""",
    "body.txt": """[% extends "layout.txt" %]
[% from "parts.txt" import action, greet with context %]
[% block body %]
[[ greet("user_name") ]]
[[ intro ]]

{{ badge_name|user_text }}

[[ action(button, "badge_url") ]]
[% endblock %]
""",
    "texts/en.toml": """subject = "New badge: {{ badge_name|user_text }}"
preheader = "{{ plural('point', points) }} more."
title = "A new badge"
intro = "You have earned {{ plural('point', points) }} and a badge:"
button = "See your badges"

[plural]
point = { one = "{n} point", other = "{n} points" }
""",
    "samples.toml": """[plain]
userName = "Amélie"
badgeName = "Early bird"
points = 5
badgeUrl = "{frontend_url}/badges"
""",
}


def write_kind(folder: Path, name: str, files: dict[str, str]) -> Path:
    """The folder of one kind, with these files."""
    for path, text in files.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder

"""The tables of `docs/configuration.md`, made out of the settings themselves.

`python -m tests.docs.settings_tables` writes them into the page; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic.fields import FieldInfo

from flowstate_daemon.config.loader import ENV_NAMES, SECTIONS
from flowstate_daemon.config.sources import Key
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "configuration.md"
HEAD = ("key", "variables", "default", "what it means")
RULE = "| --- | --- | --- | --- |"
NO_VALUE = {"instance_id": "the host's name", "from_address": "none", "url": "none", "sentinels": "none"}


def tables() -> Iterator[str]:
    """A heading and a table for each section, in the order of the file."""
    for name, section in SECTIONS.items():
        rows = [
            (f"`{key}`", variables((name, key)), default(key, field), str(field.description).replace("<", "\\<"))
            for key, field in section.model_fields.items()
        ]
        lines = [f"### `[{name}]`", "", line(HEAD), RULE, *map(line, rows)]
        yield "\n".join(lines) + "\n"


def line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def variables(key: Key) -> str:
    """The name in use first, then the one that every key has."""
    return "<br>".join(f"`{name}`" for name, named in ENV_NAMES.items() if named == key)


def default(key: str, field: FieldInfo) -> str:
    """The default and, where there is one, the range or the choice."""
    value = None if field.default_factory else field.default
    empty = value is None or str(value) == "" or field.default_factory
    shown = NO_VALUE.get(key, "none") if empty else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    limits = {name: getattr(fact, name) for fact in field.metadata for name in ("ge", "le") if hasattr(fact, name)}
    if {"ge", "le"} <= limits.keys():
        return f"{shown} ({limits['ge']:g} to {limits['le']:g})" if limits["le"] < 10**6 else shown
    choices = get_args(field.annotation) if str(field.annotation).startswith("typing.Literal") else ()
    return f"{shown} ({', '.join(f'`{choice}`' for choice in choices)})" if choices else shown


def written(page: str) -> str:
    """The page with fresh tables between its two marks."""
    fresh = "<!-- settings -->\n\n" + "\n".join(tables()) + "\n<!-- end of settings -->"
    return re.sub(r"<!-- settings -->.*<!-- end of settings -->", lambda _: fresh, page, flags=re.DOTALL)


def main(page: Path = PAGE) -> None:
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

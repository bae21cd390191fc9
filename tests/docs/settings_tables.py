"""The settings as text: the tables of `docs/configuration.md` and the comments of `config/flowstate-daemon.toml`.

`python -m tests.docs.settings_tables` writes both; tests compare them with the settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

from pydantic.fields import FieldInfo

from flowstate_daemon.base.docstrings import attribute_docstrings
from flowstate_daemon.config.loader import ENV_ALIASES, ENV_NAMES, SECTIONS
from flowstate_daemon.config.sources import Key
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "configuration.md"
SAMPLE = ROOT / "config" / "flowstate-daemon.toml"
HEADER = ("key", "variables", "default", "description")
DELIMITER = "| --- | --- | --- | --- |"
NO_VALUE = {"instance_id": "the host name", "from_address": "none", "url": "none", "sentinels": "none"}
SAMPLE_KEY = re.compile(r"(?:# )?(?P<key>[a-z_]+) = .+")


def tables() -> Iterator[str]:
    """A heading and a table for each section, in the order of the file."""
    for name, section in SECTIONS.items():
        texts = attribute_docstrings(section)
        rows = [
            (f"`{key}`", variables((name, key)), default(key, field), texts[key].replace("<", "\\<"))
            for key, field in section.model_fields.items()
        ]
        lines = [f"### `[{name}]`", "", line(HEADER), DELIMITER, *map(line, rows)]
        yield "\n".join(lines) + "\n"


def line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def variables(key: Key) -> str:
    """The alias of existing deployments first, then the name that every key has."""
    return "<br>".join(f"`{name}`" for name, named in ENV_NAMES.items() if named == key)


def default(key: str, field: FieldInfo) -> str:
    """The default, with the range or the choices if there are any."""
    value = None if field.default_factory else field.default
    empty = value is None or str(value) == "" or field.default_factory
    shown = NO_VALUE.get(key, "none") if empty else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    limits = {name: getattr(fact, name) for fact in field.metadata for name in ("ge", "le") if hasattr(fact, name)}
    if {"ge", "le"} <= limits.keys():
        return f"{shown} ({limits['ge']:g} to {limits['le']:g})" if limits["le"] < 10**6 else shown
    choices = get_args(field.annotation) if str(field.annotation).startswith("typing.Literal") else ()
    return f"{shown} ({', '.join(f'`{choice}`' for choice in choices)})" if choices else shown


def render_page(page: str) -> str:
    """The page with current tables between its two markers."""
    current = "<!-- settings -->\n\n" + "\n".join(tables()) + "\n<!-- end of settings -->"
    return re.sub(r"<!-- settings -->.*<!-- end of settings -->", lambda _: current, page, flags=re.DOTALL)


def render_sample(sample: str) -> str:
    """The sample with the current description above each key; keys and values stay as they are."""
    aliases = {key: name for name, key in reversed(ENV_ALIASES.items())}
    lines: list[str] = []
    section = ""
    for text in sample.splitlines():
        if text.startswith("["):
            section = text.strip("[]")
        elif section and (match := SAMPLE_KEY.fullmatch(text)):
            key = (section, match["key"])
            alias = f" ({aliases[key]})" if key in aliases else ""
            lines[-1] = f"# {attribute_docstrings(SECTIONS[section])[key[1]]}{alias}"
        lines.append(text)
    return "\n".join(lines) + "\n"


def main() -> None:
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SAMPLE.write_text(render_sample(SAMPLE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

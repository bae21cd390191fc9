"""Blocks of data are what their language says, and settings among them are settings."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from flowstate_daemon.config.loader import SECTIONS, load
from tests.docs.pages import PAGES, Block

# What may stand in a block; `text` is what something prints, `ts` and `nginx` are files of other programs.
LANGUAGES = {"sh", "sql", "toml", "json", "yaml", "text", "ts", "nginx"}
BLOCKS = [(name, block) for name, page in PAGES.items() for block in page.blocks]


def place(case: tuple[str, Block]) -> str:
    return f"{case[0]}:{case[1].line}"


def written_in(language: str) -> pytest.MarkDecorator:
    cases = [case for case in BLOCKS if case[1].language == language]
    return pytest.mark.parametrize("case", cases, ids=place)


def test_every_block_has_a_language() -> None:
    """A block that says what it is can be held to it."""
    assert {place(case): case[1].language for case in BLOCKS if case[1].language not in LANGUAGES} == {}


@written_in("toml")
def test_toml_with_our_sections_is_a_configuration(case: tuple[str, Block], tmp_path: Path) -> None:
    """It loads without a mistake."""
    tables = tomllib.loads(case[1].text)
    if set(tables) <= set(SECTIONS):
        file = tmp_path / "flowstate-daemon.toml"
        file.write_text(case[1].text.replace("…", "x" * 32))
        load({}, file)


@written_in("json")
def test_json_is_json(case: tuple[str, Block]) -> None:
    """One document, or one a line."""
    text = case[1].text
    documents = [text] if re.match(r"[\[{]\s*\n", text) else text.splitlines()
    for document in documents:
        json.loads(document)


@written_in("yaml")
def test_yaml_is_yaml(case: tuple[str, Block]) -> None:
    """One document, with something in it."""
    assert yaml.safe_load(case[1].text)

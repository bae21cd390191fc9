"""Data blocks are valid in their language, and configuration blocks are valid configurations."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from flowstate_daemon.config.loader import SECTIONS, load
from tests.docs.pages import PAGES, Block

# Permitted languages; `text` is output, `ts` and `nginx` belong to other programs.
LANGUAGES = {"sh", "sql", "toml", "json", "yaml", "text", "ts", "nginx", "mermaid"}
BLOCKS = [(name, block) for name, page in PAGES.items() for block in page.blocks]


def block_id(case: tuple[str, Block]) -> str:
    return f"{case[0]}:{case[1].line}"


def blocks_in(language: str) -> pytest.MarkDecorator:
    cases = [case for case in BLOCKS if case[1].language == language]
    return pytest.mark.parametrize("case", cases, ids=block_id)


def test_every_block_has_a_language() -> None:
    """Only blocks with a language can be checked."""
    assert {block_id(case): case[1].language for case in BLOCKS if case[1].language not in LANGUAGES} == {}


@blocks_in("toml")
def test_toml_block_is_a_valid_configuration(case: tuple[str, Block], tmp_path: Path) -> None:
    """A TOML block with sections of the daemon loads without an error."""
    tables = tomllib.loads(case[1].text)
    if set(tables) <= set(SECTIONS):
        file = tmp_path / "flowstate-daemon.toml"
        file.write_text(case[1].text.replace("…", "x" * 32))
        load({}, file)


@blocks_in("json")
def test_json_block_is_valid(case: tuple[str, Block]) -> None:
    """A JSON block is one document, or one per line."""
    text = case[1].text
    documents = [text] if re.match(r"[\[{]\s*\n", text) else text.splitlines()
    for document in documents:
        json.loads(document)


@blocks_in("yaml")
def test_yaml_block_is_valid(case: tuple[str, Block]) -> None:
    """A YAML block is one document that is not empty."""
    assert yaml.safe_load(case[1].text)

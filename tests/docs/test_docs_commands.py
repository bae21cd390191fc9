"""Every command of the handbook is run as it stands; what it prints is what the handbook says that it prints."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.docs.pages import NEEDS, PAGES, ROOT, Block, Page
from tests.docs.sandbox import DocsSandbox

COMMANDS = {"sh", "sql"}
PLAYED = [
    name
    for name, page in PAGES.items()
    if any(block.language in COMMANDS and block.needs is None for block in page.blocks)
]
SHELL = [(name, block) for name, page in PAGES.items() for block in page.blocks if block.language == "sh"]
MARKED = [(name, block) for name, page in PAGES.items() for block in page.blocks if block.needs is not None]


def place(case: tuple[str, Block]) -> str:
    return f"{case[0]}:{case[1].line}"


def shown_after(page: Page) -> list[str | None]:
    """For each block that is played, the output that the page shows right after it."""
    shown: list[str | None] = []
    for block, after in zip(page.blocks, [*page.blocks[1:], None], strict=True):
        if block.language not in COMMANDS or block.needs is not None:
            continue
        end = block.line + block.text.count("\n") + 2
        follows = after is not None and after.language == "text" and after.line - end <= 1
        shown.append(after.text if follows and after is not None else None)
    return shown


def pattern(line: str) -> str:
    """A line of shown output: numbers, dates and spans of blanks may differ, and `…` stands for anything."""
    parts = re.split(r"(…|\s+|\d[\d.,:]*)", line.strip())
    return "".join(
        ".*" if part == "…" else r"\s+" if part.isspace() else r"\d[\d.,:]*" if part[:1].isdigit() else re.escape(part)
        for part in parts
    )


def missing(shown: str, output: str) -> str | None:
    """The first line that is shown and was not printed, in this order; None when all were."""
    lines = iter(output.splitlines())
    for expected in filter(str.strip, shown.splitlines()):
        if not any(re.search(pattern(expected), line) for line in lines):
            return expected
    return None


@pytest.mark.parametrize("name", PLAYED)
async def test_commands_do_what_the_page_says(name: str, stage: DocsSandbox) -> None:
    """All blocks of a page succeed, in order, and print what stands below them."""
    page = PAGES[name]
    told = await stage.play(page)
    played = [block for block in page.blocks if block.language in COMMANDS and block.needs is None]
    last = played[max(len(told.outputs) - 1, 0)]
    assert told.code == 0, f"{name}:{last.line} exits {told.code}:\n{''.join(told.outputs[-1:])}"
    assert len(told.outputs) == len(played)
    for block, shown, output in zip(played, shown_after(page), told.outputs, strict=True):
        wrong = shown and missing(shown, output)
        assert not wrong, f"{name}:{block.line} does not print {wrong!r}, but:\n{output}"


@pytest.mark.parametrize("case", SHELL, ids=place)
def test_all_commands_are_well_formed(case: tuple[str, Block]) -> None:
    """Also those that are not run are what a shell understands."""
    done = subprocess.run(["bash", "-n"], input=case[1].text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", MARKED, ids=place)
def test_a_block_that_is_not_run_says_why_and_is_right(case: tuple[str, Block]) -> None:
    """The reason is one of the permitted ones, and what needs it can be seen in the block."""
    _, block = case
    assert block.needs in NEEDS
    assert NEEDS[block.needs].search(block.text), f"nothing in it needs {block.needs}"


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="there is no redis-cli to compare with")
@pytest.mark.parametrize(
    "command", ["PING", "LLEN nothing", "GET nothing", "HGETALL nothing", "ZRANGE bull:email:failed 0 -1", "LPUSH"]
)
async def test_the_stand_in_speaks_like_redis_cli(command: str, stage: DocsSandbox) -> None:
    """Machines without redis-cli play the same handbook."""
    said = [stage.ask(program, command) for program in ("redis-cli", str(shutil.which("redis-cli")))]
    assert said[0] == said[1]


def test_make_words_exist() -> None:
    """Every `make word` of the handbook is one of the Makefile's."""
    heads = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = {word for head in heads for word in head.split()}
    named = {
        word
        for page in PAGES.values()
        for code in page.code
        for word in re.findall(r"(?:^|sudo )make ([a-z][a-z-]*)", code, re.MULTILINE)
    }
    assert named <= text

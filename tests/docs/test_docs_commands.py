"""Every command in the documentation runs unchanged and prints what the documentation shows."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.docs.pages import NEEDS, PAGES, ROOT, Block, Page
from tests.docs.sandbox import DocsSandbox

COMMANDS = {"sh", "sql"}
RUNNABLE = [
    name
    for name, page in PAGES.items()
    if any(block.language in COMMANDS and block.needs is None for block in page.blocks)
]
SHELL = [(name, block) for name, page in PAGES.items() for block in page.blocks if block.language == "sh"]
MARKED = [(name, block) for name, page in PAGES.items() for block in page.blocks if block.needs is not None]


def block_id(case: tuple[str, Block]) -> str:
    return f"{case[0]}:{case[1].line}"


def expected_outputs(page: Page) -> list[str | None]:
    """For each block that runs, the output that the page shows right after it."""
    shown: list[str | None] = []
    for block, after in zip(page.blocks, [*page.blocks[1:], None], strict=True):
        if block.language not in COMMANDS or block.needs is not None:
            continue
        end = block.line + block.text.count("\n") + 2
        follows = after is not None and after.language == "text" and after.line - end <= 1
        shown.append(after.text if follows and after is not None else None)
    return shown


def pattern(line: str) -> str:
    """A line of expected output: numbers, dates and whitespace may differ, and `…` matches anything."""
    parts = re.split(r"(…|\s+|\d[\d.,:]*)", line.strip())
    return "".join(
        ".*" if part == "…" else r"\s+" if part.isspace() else r"\d[\d.,:]*" if part[:1].isdigit() else re.escape(part)
        for part in parts
    )


def missing(shown: str, output: str) -> str | None:
    """The first expected line that was not printed, in order; None if all were."""
    lines = iter(output.splitlines())
    for expected in filter(str.strip, shown.splitlines()):
        if not any(re.search(pattern(expected), line) for line in lines):
            return expected
    return None


@pytest.mark.parametrize("name", RUNNABLE)
async def test_commands_print_what_the_page_shows(name: str, sandbox: DocsSandbox) -> None:
    """All blocks of a page succeed, in order, and print the output shown below them."""
    page = PAGES[name]
    result = await sandbox.run_page(page)
    blocks = [block for block in page.blocks if block.language in COMMANDS and block.needs is None]
    last = blocks[max(len(result.outputs) - 1, 0)]
    assert result.code == 0, f"{name}:{last.line} exits {result.code}:\n{''.join(result.outputs[-1:])}"
    assert len(result.outputs) == len(blocks)
    for block, shown, output in zip(blocks, expected_outputs(page), result.outputs, strict=True):
        wrong = shown and missing(shown, output)
        assert not wrong, f"{name}:{block.line} does not print {wrong!r}, but:\n{output}"


@pytest.mark.parametrize("case", SHELL, ids=block_id)
def test_shell_block_has_valid_syntax(case: tuple[str, Block]) -> None:
    """Every shell block is valid syntax, including blocks that do not run in tests."""
    done = subprocess.run(["bash", "-n"], input=case[1].text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", MARKED, ids=block_id)
def test_block_that_does_not_run_gives_a_valid_reason(case: tuple[str, Block]) -> None:
    """The reason is permitted, and the block contains what requires it."""
    _, block = case
    assert block.needs in NEEDS
    assert NEEDS[block.needs].search(block.text), f"nothing in it needs {block.needs}"


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
@pytest.mark.parametrize(
    "command", ["PING", "LLEN nothing", "GET nothing", "HGETALL nothing", "ZRANGE bull:email:failed 0 -1", "LPUSH"]
)
async def test_fake_redis_cli_prints_what_redis_cli_prints(command: str, sandbox: DocsSandbox) -> None:
    """The output of the fake redis-cli is that of the real one."""
    outputs = [sandbox.redis_cli(program, command) for program in ("redis-cli", str(shutil.which("redis-cli")))]
    assert outputs[0] == outputs[1]


def test_make_targets_exist() -> None:
    """Every `make` target in the documentation is in the Makefile."""
    rules = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    named = {
        target
        for page in PAGES.values()
        for code in page.code
        for target in re.findall(r"(?:^|sudo )make ([a-z][a-z-]*)", code, re.MULTILINE)
    }
    assert named <= targets

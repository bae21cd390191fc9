"""A test that hangs fails, on uvloop too: pytest-timeout alone would wait for ever there."""

import asyncio
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANGING = """
import asyncio
import pytest
from tests.support import time_limits

time_limits.GRACE_S = 1.0
pytestmark = pytest.mark.timeout(1)

@pytest.fixture
async def never():
    await asyncio.Event().wait()

async def test_waits():
    await asyncio.Event().wait()

async def test_ignores_its_end():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def test_fixture(never): pass

def test_plain():
    while True: pass

async def test_passes(): pass
"""


async def test_tests_that_hang_fail(tmp_path: Path) -> None:
    """In a coroutine, in its fixture, and in a plain function; the tests after them run."""
    path = tmp_path / "test_hanging.py"
    path.write_text(HANGING)
    options = ["-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-n", "1", "-q"]
    pytest = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *options, "--color=no", str(path)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await pytest.communicate())[0].decode()
    assert "4 failed, 1 passed" in output
    failed = set(re.findall(r"^FAILED \S+::test_(\w+)", output, re.MULTILINE))
    assert failed == {"waits", "ignores_its_end", "fixture", "plain"}
    assert "await asyncio.Event().wait()" in output  # where it waited

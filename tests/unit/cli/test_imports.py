"""What the daemon keeps out of memory: modules that it imports only when they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flowstate_daemon.base.imports import deferred, without

LOADED = "import json, sys; from flowstate_daemon.cli.main import app; app.get_command(None, 'run');"
UNUSED = (
    "rich", "requests", "urllib3", "cryptography.hazmat", "pygments", "greenlet", "opentelemetry", "psutil",
    "flowstate_daemon.web.api_v1.models",
    "flowstate_daemon.web.dashboard.app", "flowstate_daemon.cli.check.runner", "flowstate_daemon.dev.environment",
)  # fmt: skip


def loaded_by(code: str) -> list[str]:
    """The modules that a new interpreter has after some code."""
    command = [sys.executable, "-c", f"{code} print(json.dumps(sorted(sys.modules)))"]
    modules: list[str] = json.loads(subprocess.check_output(command, text=True))
    return modules


def test_run_imports_only_what_the_daemon_uses() -> None:
    """The command `run` loads no library for tables, no second HTTP client, and no pages."""
    loaded = loaded_by(LOADED)
    assert not set(UNUSED) & set(loaded)
    assert {"structlog", "resend", "flowstate_daemon.daemon.daemon"} <= set(loaded)


def test_health_imports_neither_stores_nor_provider() -> None:
    """`health` runs every few seconds in a container: it loads none of the large libraries."""
    loaded = loaded_by("import json, sys; from flowstate_daemon.cli.main import app; app.get_command(None, 'health');")
    assert not {"redis", "asyncpg", "aiohttp", "pydantic", "resend", "rich", "structlog"} & set(loaded)


def test_the_synchronous_client_of_the_sdk_still_works() -> None:
    """A member of the deferred library loads it."""
    loaded = loaded_by(f"{LOADED} import resend.http_client_requests as c; c.requests.RequestException;")
    assert "requests" in loaded


def test_deferred_leaves_other_imports_alone() -> None:
    """After the block the module is imported as always."""
    sys.modules.pop("wave", None)
    with deferred("wave"):
        import wave  # noqa: PLC0415 - what is tested

        early = wave
    assert "wave" not in sys.modules
    assert early.Error.__module__ == "wave"
    import wave as later  # noqa: PLC0415

    assert later is not early
    assert later.Error is early.Error


def test_without_hides_a_module_for_the_block_only() -> None:
    """Inside the block the import fails, afterwards it works."""
    sys.modules.pop("wave", None)
    with without("wave"), pytest.raises(ImportError):
        import wave  # noqa: F401, PLC0415
    import wave as later  # noqa: PLC0415

    assert later.Error


@pytest.mark.parametrize("block", [deferred, without])
def test_loaded_modules_stay(block: object) -> None:
    """A module that is loaded already is neither hidden nor replaced."""
    assert callable(block)
    with block("json"):
        assert sys.modules["json"] is json


@pytest.mark.parametrize("block", [deferred, without])
def test_blocks_end_after_an_error(block: object) -> None:
    """An error inside the block leaves nothing behind."""
    sys.modules.pop("wave", None)
    assert callable(block)
    with pytest.raises(ValueError, match="inside"), block("wave"):
        raise ValueError("inside")
    assert "wave" not in sys.modules


def test_pydantic_searches_no_plugins() -> None:
    """The start does not read the metadata of every installed package."""
    code = "import importlib.metadata as m, json, sys; m.distributions = lambda **_: sys.exit('searched');"
    assert "pydantic" in loaded_by(f"{code} {LOADED}")

"""The test's own queue for commands, and the checks of `check` on stores that the test chooses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from flowstate_daemon.cli.check.result import CheckResult
from flowstate_daemon.cli.check.runner import run_checks
from flowstate_daemon.config.loader import load
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.redis_client.keys import Keys

Check = Callable[..., Awaitable[dict[str, CheckResult]]]


@pytest.fixture
def queue_environment(monkeypatch: pytest.MonkeyPatch, valkey_url: str, keys: Keys) -> None:
    """The variables with which a command finds the test's queue."""
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setenv("FLOWSTATE_QUEUE_PREFIX", keys.prefix)


@pytest.fixture
def check(valkey_url: str, keys: Keys, tmp_path: Path) -> Check:
    """Runs all checks; the results by the name of the check."""

    async def check(within_s: float = 15.0, **environment: str) -> dict[str, CheckResult]:
        config = load(
            {
                "REDIS_URL": valkey_url,
                "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
                "FLOWSTATE_OUTBOX_FOLDER": str(tmp_path),
                **({} if "RESEND_API_KEY" in environment else {"FLOWSTATE_DELIVERY": "outbox"}),
                "FLOWSTATE_HTTP_PORT": str(free_port()),
                "RESEND_FROM_EMAIL": "hello@flowstate.dev",
                **environment,
            },
            sending=True,
        )
        return {result.name: result for result in await run_checks(config, within_s=within_s)}

    return check

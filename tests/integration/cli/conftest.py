"""`check` as one calls it, on stores of the test's choice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from flowstate_daemon.base.config import load
from flowstate_daemon.cli.checks import examine
from flowstate_daemon.cli.verdict import Verdict
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.queue.keys import Keys

Check = Callable[..., Awaitable[dict[str, Verdict]]]


@pytest.fixture
def check(valkey_url: str, keys: Keys, tmp_path: Path) -> Check:
    """Runs all parts of `check`; verdicts by their subject."""

    async def check(within_s: float = 15.0, **environment: str) -> dict[str, Verdict]:
        config = load(
            {
                "REDIS_URL": valkey_url,
                "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
                "FLOWSTATE_OUTBOX_FOLDER": str(tmp_path),
                "FLOWSTATE_HTTP_PORT": str(free_port()),
                "RESEND_FROM_EMAIL": "hello@flowstate.dev",
                **environment,
            },
            sending=True,
        )
        return {verdict.subject: verdict for verdict in await examine(config, within_s=within_s)}

    return check

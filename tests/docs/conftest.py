"""The sandbox in which the commands of the documentation run, one per session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import seed_database
from tests.conftest import skip_or_fail
from tests.docs.sandbox import TEMPLATE, DocsSandbox
from tests.support.fake_resend import FakeResend


@pytest.fixture(scope="session")
async def sandbox(tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres) -> AsyncIterator[DocsSandbox]:
    """Its own Valkey, because the pages use the prefix `bull`; the provider accepts the domain of the pages."""
    valkey = EmbeddedValkey(appendonly=True)
    try:
        await valkey.start()
    except FlowstateError as error:
        await valkey.close()
        skip_or_fail(error)
    await seed_database(postgres.url(), TEMPLATE, Clock().now())
    async with FakeResend() as provider:
        provider.verified = {"example.com"}
        sandbox = DocsSandbox(Path(tmp_path_factory.mktemp("docs")), valkey, postgres, provider)
        await sandbox.open()
        yield sandbox
        await sandbox.close()
    await valkey.close()

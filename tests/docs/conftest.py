"""The stage on which the handbook is played, once a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import seed_database
from tests.conftest import do_without
from tests.docs.sandbox import TEMPLATE, DocsSandbox
from tests.support.fake_resend import FakeResend


@pytest.fixture(scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres) -> AsyncIterator[DocsSandbox]:
    """A queue server of its own, since pages call their queue `bull`; the provider knows the pages' domain."""
    valkey = EmbeddedValkey(appendonly=True)
    try:
        await valkey.start()
    except FlowstateError as error:
        await valkey.close()
        do_without(error)
    await seed_database(postgres.url(), TEMPLATE, Clock().now())
    async with FakeResend() as provider:
        provider.verified = {"example.com"}
        stage = DocsSandbox(Path(tmp_path_factory.mktemp("handbook")), valkey, postgres, provider)
        await stage.open()
        yield stage
        await stage.close()
    await valkey.close()

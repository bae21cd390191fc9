"""The Redis users of the pages are enough for what operators do: all of it, or in shadow mode all that only reads."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.address import address_spellings
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.operations.enqueue import EnqueueService
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.operations.statistics import HOUR_MS, MINUTE_MS
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.queue.forgetting import QueueForgetter
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.docs.pages import PAGES
from tests.integration.operations.test_statistics import recorder
from tests.integration.web.test_api_actions import fill
from tests.support.clock import FakeClock
from tests.support.operator_api import build_operator

SETUSER = re.compile(r"ACL SETUSER (\w+) on \">\$password\" (.*)")


@asynccontextmanager
async def connected(valkey_url: str, redis: Redis, keys: Keys, page: str) -> AsyncIterator[Connection]:
    """A connection of the user that the page creates, with the rights on the test's own queue."""
    found = SETUSER.search(PAGES[page].text)
    assert found is not None
    name = f"{found[1]}-{uuid4().hex[:8]}"
    rules = [rule.replace("bull:email:", keys.base) for rule in shlex.split(found[2])]
    await redis.execute_command("ACL", "SETUSER", name, "on", ">secret", *rules)
    url = urlsplit(valkey_url)
    connection = Connection(f"redis://{name}:secret@{url.hostname}:{url.port}", client_name=name)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()
        await redis.execute_command("ACL", "DELUSER", name)


async def look_at_everything(operator: Operator) -> None:
    """What the pages and the API read."""
    await asyncio.gather(
        operator.inspector.snapshot(),
        operator.inspector.workers(),
        operator.inspector.operator_actions(),
        operator.rate_limiter.state(),
        operator.failures.groups(),
        operator.statistics.points(operator.clock.now_ms(), span_ms=HOUR_MS, step_ms=MINUTE_MS),
        operator.search.page("failed", JobFilter(recipient="example"), count=10),
        operator.actions.preview("retry", "failed", JobFilter(recipient="example")),
        operator.audit("eve").newest(10),
    )


@pytest.mark.parametrize("page", ["docs/takeover.md", "docs/fr/migration.md"])
async def test_user_of_shadow_mode_may_read_what_pages_show(
    valkey_url: str, redis: Redis, keys: Keys, clock: FakeClock, page: str
) -> None:
    """Nothing is missing on a page of a daemon in shadow mode."""
    await fill(redis, keys, 3)
    async with connected(valkey_url, redis, keys, page) as connection:
        await look_at_everything(build_operator(connection, keys, clock))


async def test_user_of_the_daemon_may_do_what_operators_do(
    valkey_url: str, redis: Redis, keys: Keys, clock: FakeClock
) -> None:
    """Emails from the API, actions on many jobs, pause, provider retry, statistics, audit, forgetting a person."""
    await fill(redis, keys, 3)
    async with connected(valkey_url, redis, keys, "docs/security.md") as connection:
        operator = build_operator(connection, keys, clock)
        admin = operator.admin("eve")
        mail = NewMail("welcome", "ada@example.org", {"name": "Ada"}, delay_ms=60_000)
        service = EnqueueService(operator.producer, connection, keys, clock)
        assert (await service.enqueue([mail], "a key"))[1] is False
        assert (await service.enqueue([mail], "a key"))[1] is True
        for action, state in (("promote", "delayed"), ("retry", "failed"), ("remove", "wait")):
            await operator.actions.start(admin, action, state, JobFilter(recipient="example"))
            await operator.actions.wait_all()
        assert [one.error for one in operator.actions.actions] == ["", "", ""]
        assert sum(one.done for one in operator.actions.actions) == 1 + 3 + 4
        await admin.pause()
        await admin.resume()
        await operator.rate_limiter.request_retry()
        statistics, metrics = recorder(connection, keys, clock, "a")
        metrics.mail_sent("welcome", 1.0)
        await statistics.run_once()
        await QueueForgetter(connection, keys, address_spellings("ada@example.org")).delete(lambda _: None)
        await look_at_everything(operator)

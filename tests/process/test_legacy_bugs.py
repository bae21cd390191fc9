"""Regression tests for the known bugs of the worker that this daemon replaces, by their numbers.

They run whole daemons on real stores; most bugs also have unit tests. Bugs of the cron jobs:
`tests/integration/scheduler/test_legacy_schedule_bugs.py`; of the templates: `tests/unit/mail/test_legacy_bugs.py`.
"""

from __future__ import annotations

import json
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections import Counter

from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Backoff, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.flowstate_mails import CONTEXTS, PRIORITIES
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import AcceptedMail, FakeResend, error
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

CODE = "482913"


async def add(connection: Connection, keys: Keys, kind: str, *recipients: str, **options: object) -> None:
    """Add jobs with the options of the application's backend."""
    jobs = [
        NewJob(
            kind,
            {"type": kind, "to": to, "context": CONTEXTS[kind]},
            **{"priority": PRIORITIES[kind], "attempts": 3, "backoff": Backoff("fixed", 20), **options},  # type: ignore[arg-type]
        )
        for to in recipients
    ]
    await BullQueue(connection, keys, Clock(), token="test").add_many(jobs)


async def sent(provider: FakeResend, count: int = 1) -> list[AcceptedMail]:
    """Wait until `count` emails are accepted, and return all accepted ones."""

    await eventually(lambda: len(provider.accepted) >= count, f"{count} emails")
    return provider.accepted


async def test_01_overdue_summary_renders_without_template_helper(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """The context of the backend renders in both languages, where a missing template helper failed every job."""
    for locale in ("en", "fr"):
        await add(connection, keys, "overdue-summary", f"{locale}@example.org")
        async with make_daemon(locale, FLOWSTATE_MAIL_DEFAULT_LOCALE=locale):
            (*_, mail) = await sent(provider, len(provider.accepted) + 1)
        assert "Pay rent" in mail.body["html"]
    assert await redis.zcard(keys("failed")) == 0


async def test_07_list_is_rendered_as_items_and_has_a_text_part(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """Each line of a list is an item in HTML and a line in the text part; it was one paragraph without text part."""
    await add(connection, keys, "overdue-summary", "ada@example.org")
    async with make_daemon():
        (mail,) = await sent(provider)
    items = [part for part in mail.body["html"].split('role="listitem"')[1:] if "overdue" in part]
    assert ["Pay rent" in items[0], "Call home" in items[1], len(items)] == [True, True, 2]
    lines = [line for line in mail.body["text"].splitlines() if "overdue" in line and line.strip().startswith("-")]
    assert ["Pay rent" in lines[0], "Call home" in lines[1], len(lines)] == [True, True, 2]


async def test_09_code_does_not_wait_behind_reminders(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """At two requests a second a code is in the next request, and reminders are sent a hundred at a time."""
    provider.rate.limit = 2
    recipients = [f"person{number}@mail.dev" for number in range(1_000)]
    await add(connection, keys, "task-reminder", *recipients)
    async with make_daemon():
        await sent(provider, 200)
        await add(connection, keys, "otp", "code@mail.dev")
        before = len({mail.key for mail in provider.accepted})

        await eventually(lambda: any(mail.to[0] == "code@mail.dev" for mail in provider.accepted), "the code")
        assert len({mail.key for mail in provider.accepted}) <= before + 1
        mails = await sent(provider, 1_001)
    assert len({mail.key for mail in mails}) <= 20


async def test_10_enqueue_without_redis_fails_at_once(make_daemon: MakeDaemon, provider: FakeResend) -> None:
    """Without Redis the producer gets an error at once; the old one sent the email within the request."""
    daemon = make_daemon()
    url = f"redis://127.0.0.1:{free_port()}"
    command = (sys.executable, "-m", "flowstate_daemon", "enqueue", "welcome", "--to", "ada@example.org", "--json")
    process = await create_subprocess_exec(
        *command, env={**daemon._environment, "REDIS_URL": url}, stdout=PIPE, stderr=PIPE
    )
    out, _ = await process.communicate()
    assert (process.returncode, json.loads(out)["error"]) == (69, "a datastore is unreachable")
    assert provider.requests == Counter()


async def test_11_expired_and_failed_codes_are_redacted(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """A failed code is removed from its job, an expired one is not sent; both used to stay readable."""
    provider.script(error(422, "validation_error", "Invalid `to` field: no such address"), times=1)
    stale = Clock().now_ms() - 11 * 60_000
    await add(connection, keys, "otp", "refused@example.org")
    # Before the daemon looks: a new job that claims to be old has a producer whose clock is behind.
    await add(connection, keys, "otp", "late@example.org", timestamp=stale)
    async with make_daemon() as daemon:

        async def failed() -> bool:
            return bool(await redis.zcard(keys("failed")) == 1)

        await eventually(failed, "the refused code in failed")
        await eventually(lambda: daemon.events("mail_expired"), "the late code dropped")
    every_key = [key async for key in redis.scan_iter(f"{keys.prefix}:*")]
    texts = [str(await redis.hgetall(key)) for key in every_key if await redis.type(key) == "hash"]
    assert [text for text in texts if CODE in text] == []
    assert provider.accepted == []


async def test_12_kill_between_acceptance_and_settling_sends_nothing_twice(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """When the daemon is killed after the provider accepted and before the response, a restart sends nothing new."""
    await add(connection, keys, "welcome", "ada@example.org")
    async with FaultProxy("127.0.0.1", provider.port) as proxy:
        proxy.drop_replies = True
        async with make_daemon(RESEND_API_URL=f"http://127.0.0.1:{proxy.port}") as daemon:
            await sent(provider)
            await daemon.kill()
    async with make_daemon():

        async def settled() -> bool:
            return not await redis.exists(keys("active")) and not await redis.exists(keys("wait"))

        await eventually(settled, "the job settled")
    assert [mail.to[0] for mail in provider.accepted] == ["ada@example.org"]
    assert await redis.zcard(keys("failed")) == 0

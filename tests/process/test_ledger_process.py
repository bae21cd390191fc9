"""The daemon with Postgres: the ledger, suppressions, redacted codes, and an outage of Postgres."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.dev.embedded import EmbeddedPostgres
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import ORIGIN, MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_faults import seed
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import Answer, FakeResend, error
from tests.support.waiting import eventually

ADDRESS = "person-0@example.org"
CODE = "493027"


@pytest.fixture
async def own_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A Postgres that the test may kill and start again."""
    async with EmbeddedPostgres() as daemon:  # durable: it is killed
        yield daemon


async def command(database_url: str, *text: str) -> object:
    """Run a command with --json, and return the document that it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowstate_daemon", *text, "--json",
        env={"DATABASE_URL": database_url}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


async def outcomes(database_url: str) -> list[tuple[str, str]]:
    """Kind and outcome of every row of the ledger; empty while its table does not exist yet."""
    server = await asyncpg.connect(database_url)
    try:
        rows = await server.fetch("SELECT kind, outcome FROM flowstate_daemon.mails ORDER BY kind, outcome")
    except asyncpg.UndefinedTableError:
        return []
    finally:
        await server.close()
    return [(row["kind"], row["outcome"]) for row in rows]


def code_job(timestamp_ms: int | None = None) -> tuple[str, int]:
    data = {"type": "otp", "to": ADDRESS, "context": {"otpCode": CODE, "expiresIn": "10 minutes"}}
    return json.dumps(data), Clock().now_ms() if timestamp_ms is None else timestamp_ms


async def test_sent_email_can_be_explained(
    make_daemon: MakeDaemon, database_url: str, connection: Connection, keys: Keys
) -> None:
    """The outcome is written through the journal to the ledger, and `explain` shows its decisions."""
    async with make_daemon(DATABASE_URL=database_url) as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)

        async def written() -> bool:
            return await outcomes(database_url) == [("welcome", "sent")]

        await eventually(written, "one row in the ledger")
        record: Any = await command(database_url, "explain", ADDRESS)
        assert "re_" not in json.dumps(record)
        [attempt] = record["mails"][0]["attempts"]
        assert (attempt["outcome"], [step["check"] for step in attempt["decisions"]]) == (
            "sent",
            ["suppression", "rate"],
        )
        assert re.fullmatch(r"waited \d\.\d s", attempt["decisions"][1]["reason"])


async def test_email_to_a_suppressed_address_is_skipped(
    make_daemon: MakeDaemon, database_url: str, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """The email is skipped before the request to the provider, and the ledger has the outcome."""
    await command(database_url, "migrate")
    await command(database_url, "suppression", "add", ADDRESS, "--reason", "bounced")
    async with make_daemon(DATABASE_URL=database_url) as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 2)

        async def written() -> bool:
            return await outcomes(database_url) == [("welcome", "sent"), ("welcome", "skipped")]

        await eventually(written, "both outcomes in the ledger")
    assert [mail.to[0] for mail in provider.accepted] == ["person-1@example.org"]


async def test_expired_code_is_dropped_and_redacted(
    make_daemon: MakeDaemon, provider: FakeResend, keys: Keys, redis: Redis
) -> None:
    """An expired code is not sent, and neither its job nor the log contains it afterwards."""
    data, _ = code_job()
    await seed(redis, keys, "late", "otp", data)
    await redis.hset(keys.job("late"), "timestamp", str(Clock().now_ms() - 11 * 60_000))
    async with make_daemon() as daemon:
        await daemon.ready()

        async def dropped() -> bool:
            return bool(await redis.zscore(keys("completed"), "late"))

        await eventually(dropped, "completed as expired")
        assert 'kind="otp",outcome="expired"} 1.0' in (await daemon.look("/metrics"))[1]
    job = await redis.hgetall(keys.job("late"))
    assert "expired" in job["returnvalue"]
    assert CODE not in json.dumps(job)
    assert CODE not in daemon.log_text()
    assert not provider.accepted


@pytest.mark.parametrize(
    "answer", [error(422, "validation_error", "Invalid `to` field."), error(500, "application_error")]
)
async def test_failed_code_is_redacted(
    make_daemon: MakeDaemon, provider: FakeResend, keys: Keys, redis: Redis, answer: Answer
) -> None:
    """A failed job and the stored requests contain no code."""
    provider.script(answer, times=1)
    data, now_ms = code_job()
    await seed(redis, keys, "refused", "otp", data)
    await redis.hset(keys.job("refused"), "timestamp", str(now_ms))
    async with make_daemon() as daemon:
        await daemon.ready()

        async def failed() -> bool:
            return bool(await redis.zscore(keys("failed"), "refused"))

        await eventually(failed, "failed")
    assert CODE not in json.dumps(await redis.hgetall(keys.job("refused")))
    kept = [key async for key in redis.scan_iter(keys.own("*"), _type="HASH")]
    assert not kept, "a stored request that contains the code"


async def test_codes_are_sent_during_an_outage_of_postgres(
    own_postgres: EmbeddedPostgres, make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """Other emails wait until suppressions can be read; then all are sent, and the ledger catches up."""
    url = own_postgres.url()
    async with make_daemon(DATABASE_URL=url) as daemon:
        await daemon.ready()
        await own_postgres.kill()
        await enqueue(connection, keys, 3)
        producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)
        await producer.enqueue(NewMail("otp", ADDRESS, {"otpCode": CODE}))

        await eventually(
            lambda: [mail.body["tags"][0]["value"] for mail in provider.accepted] == ["otp"], "the code alone"
        )
        await own_postgres.start()

        async def all_written() -> bool:
            return await outcomes(url) == [("otp", "sent"), *[("welcome", "sent")] * 3]

        await eventually(all_written, "four emails in the ledger", within_s=40)
    assert provider.duplicates() == []


async def test_one_click_unsubscribe_takes_effect_before_the_next_email(
    make_daemon: MakeDaemon, database_url: str, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """The link in the header of a reminder works without a login, and the next reminder is skipped."""
    daemon = make_daemon(
        DATABASE_URL=database_url,
        FLOWSTATE_HTTP_PUBLIC_URL="https://mail.flowstate.example",
        FLOWSTATE_HTTP_LINK_SECRET="x" * 40,
    )
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)
    reminder = NewMail("task-reminder", ADDRESS, preview_contexts()["task-reminder"], origin=ORIGIN)
    async with daemon:
        await daemon.ready()
        await producer.enqueue(reminder)

        await eventually(lambda: len(provider.accepted) == 1, "the first reminder")
        headers = provider.accepted[0].body["headers"]
        assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        path = urlsplit(headers["List-Unsubscribe"].strip("<>")).path
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{daemon.port}{path}", data={"List-Unsubscribe": "One-Click"}) as answer,
        ):
            assert answer.status == 200
        await producer.enqueue(reminder)

        async def skipped() -> bool:
            return ("task-reminder", "skipped") in await outcomes(database_url)

        await eventually(skipped, "the second one skipped")
    assert len(provider.accepted) == 1

"""The daemon as a child process: it starts, sends, drains, releases jobs, and reports configuration errors."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually


async def enqueue(connection: Connection, keys: Keys, count: int, *, first: int = 0) -> list[str]:
    """Enqueue `count` welcome emails, to recipients numbered from `first`; returns the job ids."""
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)
    orders = [
        NewMail("welcome", f"person-{number}@example.org", {"name": "Ada"}) for number in range(first, first + count)
    ]
    return [added.id for added in await producer.enqueue_many(orders)]


async def test_email_is_sent_from_the_queue_to_the_provider(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """An enqueued job is claimed, rendered, accepted and completed, with its metric and its log event."""
    async with make_daemon() as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)

        await eventually(lambda: len(provider.accepted) == 1, "one email accepted")

        async def settled() -> bool:
            return 'kind="welcome",outcome="sent"} 1.0' in (await daemon.look("/metrics"))[1]

        await eventually(settled, "one email counted as sent")
        assert await redis.llen(keys("active")) == 0
        (line,) = daemon.events("mail_sent")
        assert line["kind"] == "welcome"
        assert "person-0@" not in daemon.log_text()


async def test_sigterm_drains_emails_in_flight(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """After the first SIGTERM emails in flight are sent, no new job is claimed, and the exit code is 0."""
    provider.hold()
    async with make_daemon(FLOWSTATE_QUEUE_CONCURRENCY="3") as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 5)
        await eventually(lambda: redis.llen(keys("active")), "emails in flight", equals=3)
        daemon.send(signal.SIGTERM)

        async def leaving() -> bool:
            return (await daemon.look("/health/ready"))[0] == 503

        await eventually(leaving, "not ready while draining")
        provider.release()
        assert await daemon.ended() == 0
    assert len(provider.accepted) == 3
    assert await redis.llen(keys("active")) == 0
    assert await redis.llen(keys("wait")) == 2


async def test_second_sigterm_releases_jobs_at_once(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Jobs in flight return to the wait list at once, without a lock and without a counted attempt."""
    provider.hold()
    async with make_daemon(FLOWSTATE_QUEUE_CONCURRENCY="3") as daemon:
        await daemon.ready()
        ids = await enqueue(connection, keys, 3)
        await eventually(lambda: redis.llen(keys("active")), "emails in flight", equals=3)
        daemon.send(signal.SIGTERM)
        await eventually(lambda: daemon.events("draining"), "draining")
        assert "a second SIGTERM or Ctrl-C ends at once" in daemon.events("draining")[0]["hint"]
        daemon.send(signal.SIGTERM)
        assert await daemon.ended(within_s=5) == 0
    assert await redis.llen(keys("active")) == 0
    assert sorted(await redis.lrange(keys("wait"), 0, -1)) == sorted(ids)
    assert not any([await redis.exists(keys.lock(job_id)) for job_id in ids])
    assert not any([await redis.hget(keys.job(job_id), "attemptsMade") for job_id in ids])


async def test_drain_timeout_releases_the_remaining_jobs(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """A provider that does not answer cannot delay the exit beyond the timeout of the drain."""
    provider.hold()
    async with make_daemon(FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S="0.2") as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 2)
        await eventually(lambda: redis.llen(keys("active")), "emails in flight", equals=2)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended(within_s=5) == 0
    assert await redis.llen(keys("wait")) == 2


async def test_second_daemon_with_the_same_instance_id_waits(make_daemon: MakeDaemon) -> None:
    """Ready and one log event name the instance and the setting; it starts when the first daemon has stopped."""
    async with make_daemon("twin") as first:
        await first.ready()
        async with make_daemon("twin") as second:

            async def red() -> bool:
                status, body = await second.look("/health/ready")
                return status == 503 and "twin" in body and "FLOWSTATE_QUEUE_INSTANCE_ID" in body

            await eventually(red, "it is not ready and says why")
            assert (await second.look("/health/live"))[0] == 200
            assert (await first.look("/health/ready"))[0] == 200
            first.send(signal.SIGTERM)
            assert await first.ended() == 0
            await second.ready()
            assert len(second.events("lease_held")) == 1


async def test_sigterm_ends_the_wait_for_a_held_lease(make_daemon: MakeDaemon) -> None:
    """A daemon that waits for the lease stops at once, and leaves the lease to its holder."""
    async with make_daemon("twin") as first:
        await first.ready()
        async with make_daemon("twin") as second:
            await eventually(lambda: second.events("lease_held"), "it waits")
            second.send(signal.SIGTERM)
            assert await second.ended(within_s=5) == 0
        assert (await first.look("/health/ready"))[0] == 200


async def test_two_daemons_share_one_queue(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """With different instance ids they split the work, and every email is sent once."""
    provider.latency_s = 0.05
    few = {"FLOWSTATE_QUEUE_CONCURRENCY": "20"}
    async with make_daemon("one", **few) as one, make_daemon("two", **few) as two:
        await asyncio.gather(one.ready(), two.ready())
        await enqueue(connection, keys, 300)

        await eventually(lambda: len(provider.accepted) >= 300, "300 emails")
        sent = (len(one.events("mail_sent")), len(two.events("mail_sent")))
    assert provider.duplicates() == []
    assert len(provider.accepted) == 300
    assert min(sent) > 0


async def run_command(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and standard error of one command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowstate_daemon", *arguments, env=environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stderr.decode()


async def test_wrong_configuration_names_every_mistake_and_exits_78() -> None:
    """One message contains all configuration errors and no secret."""
    environment = {
        "REDIS_URL": "http://wrong",
        "FLOWSTATE_HTTP_PORT": "99999",
        "FLOWSTATE_QUEUE_CONCURENCY": "5",
        "RESEND_API_KEY": "re_se cret",
    }
    code, stderr = await run_command(["run"], environment)
    assert code == 78
    for name in ("REDIS_URL", "FLOWSTATE_HTTP_PORT", "FLOWSTATE_QUEUE_CONCURENCY", "RESEND_FROM_EMAIL"):
        assert name in stderr
    assert "re_se cret" not in stderr


async def test_command_with_unreachable_redis_exits_69(tmp_path: Path) -> None:
    """One-shot commands do not wait for Redis, and their message names the setting."""
    code, stderr = await run_command(["queue", "status"], {"REDIS_URL": "redis://127.0.0.1:1"})
    assert code == 69
    assert "REDIS_URL" in stderr


async def test_wrong_usage_exits_64() -> None:
    """An unknown state and an unknown kind of email are wrong usage."""
    assert (await run_command(["queue", "list", "nowhere"], {}))[0] == 64
    assert (await run_command(["enqueue", "spam", "--to", "a@example.org"], {}))[0] == 64

"""Jobs of the scheduled kinds that the backend's own cron jobs add, beside a daemon whose schedules are on."""

from __future__ import annotations

import re

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import ORIGIN, MailProducer, NewMail
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.audit import AuditLog
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_database_commands import run_command
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

SCHEDULED = ("task-reminder", "overdue-summary", "focus-report")
DAY_MS = 86_400_000


@pytest.fixture
def producer(connection: Connection, keys: Keys) -> MailProducer:
    """Adds jobs as the backend does: with a number as id."""
    return MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=3, backoff_ms=2000)


def order(kind: str, to: str, **more: str) -> NewMail:
    return NewMail(kind, to, preview_contexts()[kind], **more)  # type: ignore[arg-type]


async def skipped(daemon: Daemon) -> list[str]:
    """The kinds of the jobs that were skipped as duplicates, by the metric."""
    _, text = await daemon.look("/metrics")
    counts = re.findall(r'flowstate_foreign_scheduled_jobs_total\{kind="([\w-]+)"\} ([1-9]\d*)', text)
    return sorted(kind for kind, count in counts for _ in range(int(float(count))))


async def test_foreign_jobs_are_skipped_counted_and_warned_of_once(
    make_daemon: MakeDaemon, provider: FakeResend, producer: MailProducer, database_url: str
) -> None:
    """Each foreign job is skipped with the reason; one warning per kind has the remedy; all other kinds are sent."""
    async with make_daemon(DATABASE_URL=database_url) as daemon:
        await daemon.ready()
        orders = [order(kind, f"p{number}@example.org") for kind in SCHEDULED for number in range(3)]
        orders += [order("goal-milestone", "goal@example.org"), order("otp", "code@example.org")]
        orders.append(order("task-reminder", "by-hand@example.org", origin=ORIGIN))
        await producer.enqueue_many(orders)

        async def settled() -> bool:
            return len(await skipped(daemon)) == 9 and len(provider.accepted) == 3

        await eventually(settled, "all jobs settled")
        assert {mail.to[0] for mail in provider.accepted} == {
            "goal@example.org", "code@example.org", "by-hand@example.org",
        }  # fmt: skip
        warnings = daemon.events("foreign_scheduled_job")
        assert sorted(line["kind"] for line in warnings) == sorted(SCHEDULED)
        assert all("FLOWSTATE_SCHEDULE_FOREIGN_JOBS=send" in line["remedy"] for line in warnings)
        assert {line["skipped"] for line in daemon.events("mail_skipped")} == {warnings[0]["reason"]}

        async def explained() -> bool:
            result = await run_command("explain", "p1@example.org", "--json", DATABASE_URL=database_url)
            return len(result.document["mails"]) == 3

        await eventually(explained, "the outcomes are in the ledger")


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"FLOWSTATE_SCHEDULE_FOREIGN_JOBS": "send"}, set(SCHEDULED)),
        ({"FLOWSTATE_SCHEDULE_ENABLED": "false"}, set(SCHEDULED)),
        ({"FLOWSTATE_SCHEDULE_FOCUS_REPORT": "false"}, {"focus-report"}),
    ],
)
async def test_foreign_jobs_are_sent_where_the_daemon_does_not_send_them_itself(
    make_daemon: MakeDaemon,
    provider: FakeResend,
    producer: MailProducer,
    database_url: str,
    settings: dict[str, str],
    sent: set[str],
) -> None:
    """With `send`, with the schedules off, or with one of them off."""
    async with make_daemon(DATABASE_URL=database_url, **settings) as daemon:
        await daemon.ready()
        await producer.enqueue_many([order(kind, f"{kind}@example.org") for kind in SCHEDULED])

        async def settled() -> bool:
            return len(provider.accepted) == len(sent) and len(await skipped(daemon)) == 3 - len(sent)

        await eventually(settled, "all jobs settled")
    assert {mail.to[0].partition("@")[0] for mail in provider.accepted} == sent


async def test_old_jobs_are_not_sent_when_retried_by_hand(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """Jobs of the old worker in `failed`, retried days later: expired, not sent; a milestone is sent."""
    clock = Clock()
    queue = BullQueue(connection, keys, clock, token="test")
    producer = MailProducer(queue, attempts=1, backoff_ms=0)
    kinds = (*SCHEDULED, "goal-milestone")
    await producer.enqueue_many([order(kind, f"{kind}@example.org") for kind in kinds])
    for number in range(1, len(kinds) + 1):
        fields = ("timestamp", clock.now_ms() - 4 * DAY_MS, "attemptsMade", 3)
        await connection.execute("HSET", keys.job(str(number)), *fields)
        await connection.execute("ZADD", keys("failed"), clock.now_ms(), str(number))
    await connection.execute("DEL", keys("wait"), keys("priority"))
    admin = QueueAdmin(connection, keys, clock, token="test", audit=AuditLog(connection, keys, clock, actor="test"))
    async with make_daemon() as daemon:
        await daemon.ready()
        for number in range(1, len(kinds) + 1):
            await admin.retry(str(number))
        await eventually(lambda: len(daemon.events("mail_expired")) == 3, "the old emails are expired")
        await eventually(lambda: len(provider.accepted) == 1, "the milestone is sent")
        assert {line["kind"] for line in daemon.events("mail_expired")} == set(SCHEDULED)
    assert provider.accepted[0].to == ("goal-milestone@example.org",)

"""Clocks that are wrong or jump: no code is destroyed, no attempt is used up, nothing is planned, and ready says so."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.daemon import clock_monitor
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.worker.test_crash_points import settings
from tests.support.clock import WrongClock
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import FakeResend, error

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks are compared within milliseconds."""
    monkeypatch.setattr(clock_monitor, "CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr(clock_monitor, "REDIS_INTERVAL_S", 0.05)
    monkeypatch.setattr(clock_monitor, "POSTGRES_INTERVAL_S", 0.05)


async def enqueue(connection: Connection, keys: Keys, *addresses: str, kind: str = "otp") -> None:
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=1000)
    await producer.enqueue_many([NewMail(kind, address, preview_contexts()[kind]) for address in addresses])


def idle(*daemons: CrashingDaemon) -> bool:
    return not any(len(daemon.daemon.components.worker.in_flight) for daemon in daemons)


def problems(daemon: CrashingDaemon) -> str:
    return daemon.daemon.components.health.problems().get("clocks", "")


@pytest.mark.parametrize("ahead_s", [11 * MINUTE_S, -11 * MINUTE_S, HOUR_S, 3 * DAY_S, -400 * DAY_S])
async def test_code_is_sent_when_the_clock_of_the_daemon_is_wrong(
    valkey_url: str, keys: Keys, connection: Connection, fake: FakeResend, ahead_s: float
) -> None:
    """A code lives for ten minutes: eleven minutes ahead it would expire unsent. Ready says what is wrong."""
    await enqueue(connection, keys, "code@mail.dev")
    daemon = CrashingDaemon(settings(valkey_url, keys, fake), clock=WrongClock(ahead_s))

    async def sent() -> bool:
        return len(fake.accepted) == 1 and bool(problems(daemon)) and idle(daemon)

    await daemon.run_until(sent)
    assert f"s {'ahead of' if ahead_s > 0 else 'behind'} that of Redis" in problems(daemon)
    assert "chrony" in problems(daemon)


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 3 * DAY_S])
async def test_jump_and_back_destroys_no_code(
    valkey_url: str, keys: Keys, connection: Connection, fake: FakeResend, jump_s: float
) -> None:
    """Codes that wait at the provider and codes that arrive during the jump are sent; then ready is green again."""
    clock = WrongClock()
    daemon = CrashingDaemon(settings(valkey_url, keys, fake), clock=clock)
    fake.hold()
    await enqueue(connection, keys, "before@mail.dev")
    steps: list[str] = []

    async def all_sent() -> bool:
        if not steps and fake.requests.total():
            clock.ahead_s = jump_s
            await enqueue(connection, keys, "during@mail.dev")
            steps.append("jumped")
        elif steps == ["jumped"] and problems(daemon):
            fake.release()
            steps.append("seen")
        elif steps == ["jumped", "seen"] and len(fake.accepted) == 2:
            clock.ahead_s = 0.0
            steps.append("back")
        return "back" in steps and not problems(daemon) and idle(daemon)

    await daemon.run_until(all_sent)
    assert sorted(mail.to[0] for mail in fake.accepted) == ["before@mail.dev", "during@mail.dev"]


async def test_daemons_whose_clocks_differ_keep_the_delay_between_attempts(
    valkey_url: str, keys: Keys, redis: Redis, connection: Connection, fake: FakeResend
) -> None:
    """A daemon 60 s ahead must not start the other one's retries early: each would use an attempt at once."""
    environment = settings(valkey_url, keys, fake)
    first = CrashingDaemon(environment)
    second = CrashingDaemon({**environment, "FLOWSTATE_QUEUE_INSTANCE_ID": "ahead"}, clock=WrongClock(60.0))
    fake.script(error(500, "internal_server_error"), times=2)
    await enqueue(connection, keys, "code@mail.dev")
    started = asyncio.get_running_loop().time()

    async def sent() -> bool:
        return len(fake.accepted) == 1 and idle(first, second)

    await asyncio.gather(first.run_until(sent), second.run_until(sent))
    # The delays are 1 s and 2 s; a job is due to the millisecond.
    assert asyncio.get_running_loop().time() - started > 2.9
    assert not problems(first)
    assert "60 s ahead of" in problems(second)

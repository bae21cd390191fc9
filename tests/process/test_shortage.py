"""A daemon that runs out of file descriptors loses no email and uses no attempt, and goes on when it has some again."""

from __future__ import annotations

import resource

from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.rate_limiter import RateLimiter
from tests.process.conftest import MakeDaemon
from tests.process.test_delivery import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually


async def test_code_survives_a_shortage_of_descriptors(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """It failed for good within six seconds; now the provider's state says what is missing, and the code is sent."""
    shared = RateLimiter(connection, keys, Clock())
    async with make_daemon() as daemon:
        await daemon.ready()
        assert daemon.process is not None
        pid = daemon.process.pid
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limit[1]))  # what is open stays open
        await enqueue(connection, keys, ["code@mail.dev"], kind="otp")

        async def reported() -> bool:
            return any("LimitNOFILE" in problem.reason for problem in (await shared.state()).problems)

        await eventually(reported, "the shortage is reported")
        assert await redis.zcard(keys("failed")) == 0
        assert provider.accepted == []
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        await eventually(lambda: provider.accepted, "the code")

        async def is_accepting() -> bool:
            return (await shared.state()).state == "accepting"

        await eventually(is_accepting, "accepting")
    assert await redis.zcard(keys("failed")) == 0
    assert daemon.events("mail_retried") == []

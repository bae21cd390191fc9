"""Jobs with hostile fields: each one ends, and the daemon continues with the other jobs."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_faults import seed
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

AGAIN = '{"attempts":2,"backoff":{"type":"fixed","delay":10}}'
WELCOME = json.dumps({"type": "welcome", "to": "a@example.org", "context": {"name": "A"}})
DEEP = "[" * 900 + "]" * 900
HOSTILE: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "digits": ("7" * 5000, "pigeon", AGAIN, {}),
    "far-future": ("far", "welcome", AGAIN, {"timestamp": "1e300"}),
    "not-a-time": ("nat", "welcome", AGAIN, {"timestamp": "nan"}),
    "no-time": ("not", "welcome", AGAIN, {"timestamp": ""}),
    "many-tries": ("made", "pigeon", AGAIN, {"attemptsMade": "9" * 300}),
    "fewer-than-none": ("owed", "pigeon", AGAIN, {"attemptsMade": "-9e307"}),
    "two-lines": ("lines", "pigeon\nERROR forged\r\n\x1b[31m", AGAIN, {}),
    "long-name": ("long", "x" * 100_000, AGAIN, {}),
    "endless-priority": ("inf", "welcome", AGAIN, {"priority": "-inf"}),
    "no-priority": ("nan", "welcome", AGAIN, {"priority": "nan"}),
    "endless-timeout": ("patient", "welcome", '{"timeout":1e307}', {}),
    "endless-backoff": ("later", "pigeon", '{"attempts":1,"backoff":{"type":"exponential","delay":1e308}}', {}),
    "endless-retention": ("keep", "welcome", '{"removeOnComplete":{"age":-1e308,"count":1e308}}', {}),
    "deep": ("deep", "welcome", f'{{"x":{DEEP},"repeat":{{"every":3600000,"y":{DEEP}}}}}', {}),
    "big-count": ("count", "welcome", f'{{"repeat":{{"every":3600000,"count":{"9" * 400}}}}}', {}),
    "bad-zone": ("zone", "welcome", '{"repeat":{"cron":"* * * * *","tz":"../../x"}}', {}),
    "glob": ("*?[a-z]", "welcome", AGAIN, {}),
    "stacks": ("stack", "pigeon", AGAIN, {"stacktrace": "{}"}),
    "mark": ("bom", "welcome", "\ufeff{}", {}),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_job_ends_and_the_daemon_continues(
    case: str, make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Whatever its id, name, options and counters, the job leaves `active`, and a valid email behind it is sent."""
    job_id, name, opts, fields = HOSTILE[case]
    await seed(redis, keys, job_id, name, WELCOME, opts)
    if fields:
        await redis.hset(keys.job(job_id), mapping=fields)
    async with make_daemon() as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)

        async def both_ended() -> bool:
            assert daemon.process is not None
            assert daemon.process.returncode is None, daemon.log_text()
            left = [await redis.llen(keys("active")), await redis.llen(keys("wait"))]
            ended = await redis.zscore(keys("failed"), job_id) or await redis.zscore(keys("completed"), job_id)
            gone = not await redis.exists(keys.job(job_id))
            return not any(left) and bool(ended or gone) and any("person-0" in str(m.to) for m in provider.accepted)

        try:
            await eventually(both_ended, "the hostile job ended, the valid email sent", within_s=8)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{daemon.log_text()[-3000:]}") from None
        assert (await daemon.look("/health/live"))[0] == 200
    assert all(line.startswith("{") for line in daemon.log_text().splitlines())
    assert max(map(len, daemon.log_text().splitlines())) < 20_000

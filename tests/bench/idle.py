"""The cost of an idle daemon: Redis commands per minute (hosted Redis bills them) and memory."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from redis.asyncio import Redis

from tests.bench.flowstate import rss_mb
from tests.support.daemon import Daemon

SETTLE_S = 3.0


async def idle_commands(url: str, prefix: str, seconds: float) -> dict[str, float]:
    """Start the real daemon on an empty queue, let it settle, and count."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "REDIS_URL": url,
            "FLOWSTATE_QUEUE_PREFIX": prefix,
            "FLOWSTATE_DELIVERY": "outbox",
            "FLOWSTATE_OUTBOX_FOLDER": folder,
        }
        async with Daemon(settings, Path(folder)) as daemon:
            await daemon.ready()
            await asyncio.sleep(SETTLE_S)
            redis = Redis.from_url(url, protocol=2)
            before = (await redis.info("stats"))["total_commands_processed"]
            await asyncio.sleep(seconds)
            after = (await redis.info("stats"))["total_commands_processed"]
            await redis.aclose()
            assert daemon.process is not None
            memory = rss_mb(daemon.process.pid)
    counted = after - before - 1  # the second INFO is ours
    return {"commands_per_minute": round(counted * 60 / seconds, 1), "rss_mb": memory}

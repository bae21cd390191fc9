"""The measurements: each runs one peer once on an empty Valkey and returns figures, within a time limit.

Figures are numbers by name, or None for what did not happen within the limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from types import MappingProxyType
from typing import Any

from redis.asyncio import Redis

from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.delivery import Provider, provider
from tests.bench.flowstate import cpu_s, rss_mb
from tests.bench.peers import ROOT, Peer
from tests.support.daemon import Daemon
from tests.support.fake_resend import API_KEY, FakeResend

Figures = dict[str, float | None]
ERROR_CHARS = 300
START_LIMIT_S = 30.0
FILL_LIMIT_S = 400.0
SETTLE_S = 3.0
STATISTICS_WITHIN_S = 60.0
EARLY_CODES, LATER_CODES = 20, 40
CODE_INTERVAL_S = 0.1
POLL_S = 0.002


class MeasurementError(Exception):
    """A peer failed; the text is for the report."""


class Child:
    """A peer as a child process in one role."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self.pid = process.pid

    async def read(self, limit_s: float) -> dict[str, Any]:
        """The next JSON line that it prints. Raises MeasurementError, also when none comes in time."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                while line := await self._process.stdout.readline():
                    if line.startswith(b"{"):
                        return json.loads(line)  # type: ignore[no-any-return]
        except TimeoutError:
            raise MeasurementError(f"no result within {limit_s:g} s") from None
        raise MeasurementError(f"it ended: {self._errors.read_text(errors='replace').strip()[-ERROR_CHARS:]}")

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()


class Bench:
    """The Valkey of all measurements and a folder for what they write."""

    def __init__(self, valkey: EmbeddedValkey, folder: Path) -> None:
        self.url = valkey.url
        self.folder = folder
        self.redis = Redis.from_url(valkey.url, decode_responses=True, protocol=2, socket_timeout=60)

    @asynccontextmanager
    async def child(
        self, command: tuple[str, ...], more: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncIterator[Child]:
        """Run a command, with `more` in its environment, while the context is open; it is killed at the end."""
        errors = self.folder / "errors.txt"
        environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "", **more}
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=stderr, limit=1 << 24
            )
        child = Child(process, errors)
        try:
            yield child
        finally:
            await child.kill()

    async def run(self, peer: Peer, role: str, *options: str, limit_s: float) -> dict[str, Any]:
        """Run a role to its end and return what it prints."""
        async with self.child(peer.command(role, "--redis", self.url, *options)) as child:
            return await child.read(limit_s)

    async def fill(self, peer: Peer, jobs: int, mode: str, *options: str) -> float:
        """Empty the store and add the jobs of a backlog; returns the bytes of Redis memory that one job takes."""
        await self.empty()
        before = (await self.redis.info("memory"))["used_memory"]
        await self.run(peer, "fill", "--jobs", str(jobs), "--mode", mode, *options, limit_s=FILL_LIMIT_S)
        return float((await self.redis.info("memory"))["used_memory"] - before) / jobs

    async def empty(self) -> None:
        """Delete everything before this returns; by default Valkey frees the memory later."""
        await self.redis.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]

    def worker(self, peer: Peer, jobs: int, mode: str, deadline_s: float, *options: str) -> tuple[str, ...]:
        concurrency = peer.batched if mode == "batch" else peer.concurrency
        numbers = {"--redis": self.url, "--jobs": jobs, "--mode": mode, "--concurrency": concurrency}
        named = [text for name, value in numbers.items() for text in (name, str(value))]
        return peer.command("work", *named, "--deadline", str(deadline_s), *options)

    async def redis_use(self) -> dict[str, float]:
        """Commands, network bytes and CPU seconds of Redis so far."""
        info = await self.redis.info("all")
        return {
            "commands": info["total_commands_processed"],
            "bytes": info["total_net_input_bytes"] + info["total_net_output_bytes"],
            "cpu_s": info["used_cpu_user"] + info["used_cpu_sys"],
        }


def percentile(values: list[float], percent: int) -> float:
    """A percentile, interpolated; of a single value, that value."""
    if len(values) == 1:
        return values[0]
    return round(quantiles(values, n=100, method="inclusive")[percent - 1], 3)


def rate(jobs: float, seconds: float) -> float:
    return round(jobs / max(seconds, 1e-6), 1)


async def drain(bench: Bench, peer: Peer, *, jobs: int, limit_s: float) -> Figures:
    """Drain a backlog with a handler that does nothing, and what a job costs."""
    memory = await bench.fill(peer, jobs, "noop")
    before = await bench.redis_use()
    async with bench.child(bench.worker(peer, jobs, "noop", limit_s)) as child:
        await child.read(START_LIMIT_S)
        result = await child.read(limit_s + START_LIMIT_S)
    after = await bench.redis_use()
    done = max(result["jobs"], 1)
    return {
        "rate": rate(result["jobs"], result["seconds"]),
        "commands_per_job": round((after["commands"] - before["commands"]) / done, 2),
        "bytes_per_job": round((after["bytes"] - before["bytes"]) / done),
        "redis_cpu_us": round((after["cpu_s"] - before["cpu_s"]) / done * 1e6, 1),
        "cpu_us": round(result["cpu_s"] / done * 1e6, 1),
        "memory_bytes": round(memory),
        "rss_mb": result["rss_mb"],
    }


async def scripts(bench: Bench, _peer: Peer, *, jobs: int, limit_s: float) -> Figures:
    """The same scripts on the same jobs, driven by one pipelined client."""
    await bench.empty()
    command = (sys.executable, "-m", "tests.bench.scripts_alone", "--redis", bench.url, "--jobs", str(jobs))
    async with bench.child(command) as child:
        result = await child.read(limit_s)
    return {"rate": rate(result["jobs"], result["seconds"])}


async def latency(bench: Bench, peer: Peer, *, jobs: int, limit_s: float) -> Figures:
    """Codes that are added one at a time to an empty queue: from adding to the start of the handler."""
    await bench.empty()
    await bench.run(peer, "urgent", "--jobs", "1", "--interval", "0", limit_s=START_LIMIT_S)
    async with bench.child(bench.worker(peer, jobs + 1, "code", limit_s)) as child:
        await child.read(START_LIMIT_S)
        await bench.run(peer, "urgent", "--jobs", str(jobs), "--interval", "0.02", limit_s=limit_s + START_LIMIT_S)
        result = await child.read(limit_s + START_LIMIT_S)
    return _waits(result["waits_ms"][1:], jobs)


def _waits(waits_ms: list[float], wanted: int) -> Figures:
    """Percentiles, or None if some of the jobs were not handled in time."""
    if len(waits_ms) < wanted:
        return {"p50_ms": None, "p99_ms": None}
    return {"p50_ms": percentile(waits_ms, 50), "p99_ms": percentile(waits_ms, 99)}


async def under_backlog(bench: Bench, peer: Peer, *, jobs: int, limit_s: float) -> Figures:
    """With a backlog: adding an urgent job, the drain rate, and how long codes wait that come meanwhile."""
    await bench.fill(peer, jobs, "noop", "--priorities")
    early = ("--jobs", str(EARLY_CODES), "--interval", "0", "--priorities")
    added = await bench.run(peer, "urgent", *early, limit_s=START_LIMIT_S + limit_s)
    command = bench.worker(peer, EARLY_CODES + LATER_CODES, "code", limit_s, "--priorities")
    async with bench.child(command) as child:
        await child.read(START_LIMIT_S)
        later = ("--jobs", str(LATER_CODES), "--interval", str(CODE_INTERVAL_S), "--priorities")
        producer = asyncio.create_task(bench.run(peer, "urgent", *later, limit_s=START_LIMIT_S + limit_s))
        try:
            result = await child.read(limit_s + START_LIMIT_S)
        finally:
            producer.cancel()
            await asyncio.gather(producer, return_exceptions=True)
    return {
        "rate": rate(result["bulk"], result["bulk_seconds"]),
        "add_p50_ms": percentile(added["adds_ms"], 50),
        "add_max_ms": max(added["adds_ms"]),
        **_waits(result["waits_ms"][EARLY_CODES:], LATER_CODES),
    }


async def mails(bench: Bench, peer: Peer, *, jobs: int, limit_s: float, mode: str, limit: int | None) -> Figures:
    """Render and send emails to the fake provider: one request an email, or up to a hundred in one."""
    await bench.fill(peer, jobs, mode)
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        async with provider(Path(name), limit) as fake:
            if peer.kind == "ours":
                async with Daemon(daemon_settings(bench, fake.url), Path(name)) as daemon:
                    assert daemon.process is not None
                    used_s = await _accept(fake, jobs, limit_s, daemon.process.pid)
            else:
                command = bench.worker(peer, jobs, mode, limit_s, "--provider", fake.url)
                async with bench.child(command) as child:
                    await child.read(START_LIMIT_S)
                    result = await child.read(limit_s + START_LIMIT_S)
                    fake.read_journal()
                    used_s = result["cpu_s"] * len(fake.accepted) / max(result["jobs"], 1)
    at = sorted(mail[2] for mail in fake.accepted)
    if len(at) < 2:
        raise MeasurementError(f"{len(at)} emails accepted within {limit_s:g} s")
    # The last request has its share of the rate limit, or of the clock's resolution, too.
    figures: Figures = {"rate": rate(len(at), (at[-1] - at[0]) / 1000 + (1 / limit if limit else 0.001))}
    if used_s is not None:
        figures["cpu_us"] = round(used_s / len(at) * 1e6)
    return {**figures, "twice": len(at) - len({mail[1] for mail in fake.accepted})}


async def _accept(fake: Provider, jobs: int, limit_s: float, pid: int) -> float | None:
    """Wait until the emails are accepted or the limit is over.

    Returns the CPU time that the process has used after the first ones, scaled to all, in s; None if that is unknown.
    """
    until = time.monotonic() + limit_s + START_LIMIT_S
    early, before_s = 0, 0.0
    while (count := fake.read_journal()) < jobs and time.monotonic() < until:
        if count and not early:
            early, before_s, until = count, cpu_s(pid), time.monotonic() + limit_s
        await asyncio.sleep(0.02)
    count = len(fake.accepted)
    return (cpu_s(pid) - before_s) * count / (count - early) if 0 < early < count else None


def daemon_settings(bench: Bench, provider_url: str) -> dict[str, str]:
    """The real daemon on the queue of the measurement."""
    return {
        "REDIS_URL": bench.url,
        "RESEND_API_URL": provider_url,
        "RESEND_API_KEY": API_KEY,
        "FLOWSTATE_LOG_LEVEL": "warning",
    }


async def idle(bench: Bench, peer: Peer, *, seconds: float) -> Figures:
    """From the start of the process to the first job, then commands per minute and memory without jobs."""
    await bench.fill(peer, 1, "noop")
    started = time.time()
    async with _one_job(bench, peer, seconds) as (first_s, pid):
        await asyncio.sleep(SETTLE_S)
        before = (await bench.redis_use())["commands"]
        await asyncio.sleep(seconds)
        commands = (await bench.redis_use())["commands"] - before - 1  # the second INFO is ours
        memory = rss_mb(pid)
    return {
        "start_s": round(first_s - started, 3),
        "commands_per_min": round(commands * 60 / seconds, 1),
        "rss_mb": memory,
    }


@asynccontextmanager
async def _one_job(bench: Bench, peer: Peer, seconds: float) -> AsyncIterator[tuple[float, int]]:
    """A worker that has started its first job; when that was, Unix s, and its process id."""
    if peer.kind != "ours":
        async with bench.child(bench.worker(peer, 1 << 30, "noop", seconds + START_LIMIT_S)) as child:
            yield (await child.read(START_LIMIT_S))["first"], child.pid
        return
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        settings = daemon_settings(bench, "") | {"FLOWSTATE_DELIVERY": "outbox", "FLOWSTATE_OUTBOX_FOLDER": name}
        settings = {key: value for key, value in settings.items() if not key.startswith("RESEND")}
        subscriber = bench.redis.pubsub()
        await subscriber.psubscribe("bull:email:active@*")
        async with Daemon(settings, Path(name)) as daemon:
            assert daemon.process is not None
            claimed_at = await _claimed(bench, subscriber)
            if seconds >= STATISTICS_WITHIN_S:
                await _statistics_written(bench)
            yield claimed_at, daemon.process.pid
        await subscriber.aclose()  # type: ignore[no-untyped-call]


async def _statistics_written(bench: Bench) -> None:
    """Wait until the daemon has stored what it did with its job, with four commands: it is idle afterwards."""
    until = time.monotonic() + STATISTICS_WITHIN_S + START_LIMIT_S
    while not [key async for key in bench.redis.scan_iter(Keys("bull").own("statistics:*"))]:
        if time.monotonic() > until:
            raise MeasurementError("the daemon wrote no statistics")
        await asyncio.sleep(1.0)


async def _claimed(bench: Bench, subscriber: Any) -> float:
    """When the daemon claims a job, Unix s: its script publishes that."""
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=1.0)
        if message is not None:
            return time.time()
    raise MeasurementError(f"no claim within {START_LIMIT_S:g} s")


async def recovery(bench: Bench, peer: Peer, *, limit_s: float) -> Figures:
    """Kill -9 a worker while a job runs and start it again: from the kill until the job runs again."""
    await bench.fill(peer, 1, "hold")
    if peer.kind == "ours":
        return {"seconds": await _recover_ours(bench)}
    async with bench.child(bench.worker(peer, 1, "hold", limit_s)) as child:
        await child.read(START_LIMIT_S)
    killed = time.time()
    async with bench.child(bench.worker(peer, 1, "hold", limit_s)) as child:
        try:
            result = await child.read(limit_s)
        except MeasurementError:
            return {"seconds": None}
    return {"seconds": round(result["first"] - killed, 3) if "first" in result else None}


async def _recover_ours(bench: Bench) -> float:
    subscriber = bench.redis.pubsub()
    await subscriber.psubscribe("bull:email:active@*")
    async with FakeResend() as fake:
        fake.hold()
        with tempfile.TemporaryDirectory(dir=bench.folder) as name:
            daemon = Daemon(daemon_settings(bench, fake.url), Path(name))
            async with daemon:
                await _claimed(bench, subscriber)
                until = time.monotonic() + START_LIMIT_S
                while not fake.requests["POST /emails"] and time.monotonic() < until:
                    await asyncio.sleep(POLL_S)
            killed = time.time()
            async with daemon:
                seconds = await _claimed(bench, subscriber) - killed
            fake.release()
    await subscriber.aclose()  # type: ignore[no-untyped-call]
    return round(seconds, 3)

"""Delivery to a strict fake provider in its own process: how a rate limit is used, and the speed without one.

`python -m tests.bench.delivery [--full]`. The daemon is the real one, in a child process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import REMOVE, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.flowstate import cpu_s, rss_mb
from tests.support.daemon import Daemon
from tests.support.fake_resend import API_KEY
from tests.support.waiting import eventually

BATCH_SIZE = 100
CODE_INTERVAL_S = 0.05


@dataclass
class Provider:
    """The fake provider as a child process, and what it accepted: key, recipient and arrival of each email."""

    url: str
    journal: Path
    pid: int
    _read: int = 0

    def __post_init__(self) -> None:
        self.accepted: list[tuple[str, str, int]] = []

    def read_journal(self) -> int:
        """Read new entries of the journal; returns how many emails were accepted by now."""
        with self.journal.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                mail = json.loads(line)
                self.accepted.append((mail["key"], mail["to"][0], mail["came"]))
        return len(self.accepted)

    def read_ids(self) -> dict[str, str]:
        """The recipient of each accepted email, by the provider's id."""
        mails = map(json.loads, self.journal.read_bytes().splitlines())
        return {mail["id"]: mail["to"][0] for mail in mails}


@asynccontextmanager
async def provider(folder: Path, rate: int | None) -> AsyncIterator[Provider]:
    journal = folder / f"accepted-{rate}.jsonl"
    journal.touch()
    options = ["--journal", str(journal), *(["--rate", str(rate)] if rate else [])]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.fake_resend", *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield Provider((await child.stdout.readline()).decode().strip(), journal, child.pid)
    finally:
        child.terminate()
        await child.wait()


class Bench:
    """One queue with its producer, one provider, one daemon."""

    def __init__(
        self, url: str, prefix: str, provider: Provider, folder: Path, more: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """`more` are further settings of the daemon."""
        self.provider = provider
        self.clock = Clock()
        self.connection = Connection(url, client_name="bench-producer")
        self._bull = BullQueue(self.connection, Keys(prefix), self.clock, token="bench/producer")
        settings = {
            "REDIS_URL": url,
            "FLOWSTATE_QUEUE_PREFIX": prefix,
            "RESEND_API_URL": provider.url,
            "RESEND_API_KEY": API_KEY,
            "FLOWSTATE_LOG_LEVEL": "warning",
            **more,
        }
        self.daemon = Daemon(settings, folder, instance=prefix)

    async def add_reminders(self, count: int) -> None:
        await self._bull.add_many([reminder(number) for number in range(count)])

    async def add_code(self, number: int) -> int:
        """Enqueue a code; returns when that started, Unix ms."""
        now_ms = self.clock.now_ms()
        context = {"otpCode": f"{number:06}"}
        content = {"type": "otp", "to": f"code{number}@mail.dev", "context": context}
        await self._bull.add(NewJob("otp", content, priority=1, remove_on_complete=REMOVE))
        return now_ms

    async def accepted(self, count: int, *, within_s: float) -> None:
        async def enough() -> bool:
            return self.provider.read_journal() >= count

        await eventually(enough, f"{count} emails are accepted", within_s=within_s)

    async def results(self) -> dict[str, int]:
        """The provider's responses by result, as the daemon counts them."""
        _, page = await self.daemon.look("/metrics")
        found = re.findall(r'flowstate_provider_request_duration_seconds_count\{result="(\w+)"\} ([\d.]+)', page)
        return {result: round(float(count)) for result, count in found if float(count)}


def reminder(number: int) -> NewJob:
    context = {
        "userName": f"Person {number}",
        "taskTitle": f"Write down what task {number} is about",
        "projectName": "Personal",
        "priority": 3,
        "estimatedTime": 30,
        "taskUrl": f"https://flowstate.dev/tasks/{number}",
        "settingsUrl": "https://flowstate.dev/settings/notifications",
    }
    content = {"type": "task-reminder", "to": f"person{number}@mail.dev", "context": context}
    return NewJob("task-reminder", content, priority=5, attempts=3, remove_on_complete=REMOVE)


async def limited(url: str, folder: Path, mails: int, rate: int) -> dict[str, Any]:
    """`mails` reminders at `rate` requests per second, and a code in the middle."""
    async with provider(folder, rate) as fake:
        bench = Bench(url, "limited", fake, folder)
        await bench.add_reminders(mails)
        async with bench.daemon as daemon:
            await bench.accepted(mails // 2, within_s=600)
            added_ms = await bench.add_code(1)
            await bench.accepted(mails + 1, within_s=600)
            results = await bench.results()
            assert daemon.process is not None
        await bench.connection.close()
    at = [mail[2] for mail in fake.accepted]
    code = next(mail for mail in fake.accepted if mail[1].startswith("code"))
    before = {key for key, _, when in fake.accepted if added_ms < when <= code[2] and key != code[0]}
    optimum_s = mails / BATCH_SIZE / rate
    requests = sum(results.values())
    return {
        "mails": mails,
        "rate": rate,
        # The interval of the last request counts too, because the rate limit grants it.
        "seconds": round((max(at) - min(at)) / 1000 + 1 / rate, 2),
        "optimum_s": optimum_s,
        "requests": requests,
        "rate_limited_percent": round(100 * results.get("rate_limited", 0) / requests, 2),
        "twice": len(at) - len({mail[1] for mail in fake.accepted}),
        "code_ms": code[2] - added_ms,
        "code_requests": 1 + len(before),
    }


async def unlimited(
    url: str, folder: Path, mails: int, more: Mapping[str, str] = MappingProxyType({}), prefix: str = "unlimited"
) -> dict[str, Any]:
    """A backlog without a rate limit, and codes at the same time. `more` are further settings of the daemon."""
    async with provider(folder, None) as fake:
        bench = Bench(url, prefix, fake, folder, more)
        await bench.add_reminders(mails)
        async with bench.daemon as daemon:
            added, memory, used_s = await _add_codes(bench, mails, daemon)
            await bench.accepted(mails + len(added), within_s=60)
            results = await bench.results()
        await bench.connection.close()
    bulk = [when for _, to, when in fake.accepted if to.startswith("person")]
    waits = [when - added[to] for _, to, when in fake.accepted if to.startswith("code")]
    cuts = quantiles(waits, n=100)
    return {
        "mails": mails,
        "mails_per_s": round(mails / ((max(bulk) - min(bulk)) / 1000)),
        # Per second of the daemon's own CPU time, however busy the machine is.
        "mails_per_cpu_s": round((mails + len(added)) / used_s),
        "mails_per_request": round(mails / max(1, sum(results.values()) - len(added)), 1),
        "codes": len(added),
        "code_p50_ms": round(cuts[49], 1),
        "code_p99_ms": round(cuts[98], 1),
        "code_max_ms": max(waits),
        "twice": len(fake.accepted) - len({mail[1] for mail in fake.accepted}),
        "rss_mb": memory,
    }


async def _add_codes(bench: Bench, mails: int, daemon: Daemon) -> tuple[dict[str, int], list[float], float]:
    """Add one code after another until the backlog is sent.

    Returns the time of each code by recipient, the daemon's memory by quarters, and its CPU time in seconds.
    """
    await bench.accepted(1, within_s=60)
    added: dict[str, int] = {}
    memory: list[float] = []
    assert daemon.process is not None
    before_s = cpu_s(daemon.process.pid)
    for number in _numbers():
        done = bench.provider.read_journal()
        if done - len(added) >= mails:
            break
        if len(memory) < math.ceil(4 * done / mails):
            memory.append(rss_mb(daemon.process.pid))
        added[f"code{number}@mail.dev"] = await bench.add_code(number)
        await asyncio.sleep(CODE_INTERVAL_S)
    return added, [*memory, rss_mb(daemon.process.pid)], cpu_s(daemon.process.pid) - before_s


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield (number := number + 1)


async def delivery(url: str, *, full: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "unlimited": await unlimited(url, folder, 100_000 if full else 20_000),
            "limited": await limited(url, folder, 10_000, 2),
        }


def show(figures: dict[str, Any]) -> None:
    tight, wide = figures["limited"], figures["unlimited"]
    table = Table(title="Delivery", title_justify="left", show_header=False)
    table.add_row(f"{tight['mails']} reminders at {tight['rate']} requests/s, s", f"{tight['seconds']}")
    table.add_row("  optimum, s", f"{tight['optimum_s']}")
    table.add_row("  responses 429, %", f"{tight['rate_limited_percent']}")
    table.add_row(
        "  a code in the middle is sent with request / after ms", f"{tight['code_requests']} / {tight['code_ms']}"
    )
    table.add_row(f"{wide['mails']} reminders without a rate limit, emails/s", f"{wide['mails_per_s']}")
    table.add_row("  emails per second of CPU time", f"{wide['mails_per_cpu_s']}")
    table.add_row("  emails per request", f"{wide['mails_per_request']}")
    table.add_row("  codes at the same time, p50 / p99 ms", f"{wide['code_p50_ms']} / {wide['code_p99_ms']}")
    table.add_row("  RSS of the daemon by quarters, MB", " ".join(map(str, wide["rss_mb"])))
    table.add_row("sent twice", f"{tight['twice'] + wide['twice']}")
    Console().print(table)


async def measure(*, full: bool) -> dict[str, Any]:
    async with EmbeddedValkey() as daemon:
        return await delivery(daemon.url, full=full)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.delivery", description=__doc__)
    parser.add_argument("--full", action="store_true", help="a backlog of 100 000 instead of 20 000")
    logs.configure("warning")
    figures = asyncio.run(measure(full=parser.parse_args().full))
    show(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""Delivery against a strict provider in a process of its own: how a limited rate is used, how fast it is without one.

`python -m tests.bench.delivery [--full]`; part of `make bench`. The daemon is the real one, as a child process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
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

IN_A_BATCH = 100
CODE_EVERY_S = 0.05


@dataclass
class Provider:
    """The stand-in as a child, and what it has accepted: key, recipient and arrival of each mail, read as it grows."""

    url: str
    journal: Path
    _read: int = 0

    def __post_init__(self) -> None:
        self.accepted: list[tuple[str, str, int]] = []

    def look(self) -> int:
        """How many mails have been accepted by now."""
        with self.journal.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                mail = json.loads(line)
                self.accepted.append((mail["key"], mail["to"][0], mail["came"]))
        return len(self.accepted)


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
        yield Provider((await child.stdout.readline()).decode().strip(), journal)
    finally:
        child.terminate()
        await child.wait()


class Bench:
    """One queue with its producer, one provider, one daemon."""

    def __init__(self, url: str, prefix: str, provider: Provider, folder: Path) -> None:
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
        }
        self.daemon = Daemon(settings, folder, instance=prefix)

    async def remind(self, count: int) -> None:
        await self._bull.add_many([reminder(number) for number in range(count)])

    async def ask_for_code(self, number: int) -> int:
        """Enqueue a code; the time at which that began, Unix ms."""
        now_ms = self.clock.now_ms()
        context = {"otpCode": f"{number:06}"}
        content = {"type": "otp", "to": f"code{number}@mail.dev", "context": context}
        await self._bull.add(NewJob("otp", content, priority=1, remove_on_complete=REMOVE))
        return now_ms

    async def accepted(self, count: int, *, within_s: float) -> None:
        async def enough() -> bool:
            return self.provider.look() >= count

        await eventually(enough, f"{count} mails accepted", within_s=within_s)

    async def answers(self) -> dict[str, int]:
        """The provider's answers by class, as the daemon counts them."""
        _, page = await self.daemon.look("/metrics")
        found = re.findall(r'flowstate_provider_request_duration_seconds_count\{answer="(\w+)"\} ([\d.]+)', page)
        return {word: round(float(count)) for word, count in found if float(count)}


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
    """So many reminders at so many requests a second, and a code in the middle."""
    async with provider(folder, rate) as stand_in:
        bench = Bench(url, "limited", stand_in, folder)
        await bench.remind(mails)
        async with bench.daemon as daemon:
            await bench.accepted(mails // 2, within_s=600)
            asked_ms = await bench.ask_for_code(1)
            await bench.accepted(mails + 1, within_s=600)
            answers = await bench.answers()
            assert daemon.process is not None
        await bench.connection.close()
    at = [mail[2] for mail in stand_in.accepted]
    code = next(mail for mail in stand_in.accepted if mail[1].startswith("code"))
    before = {key for key, _, when in stand_in.accepted if asked_ms < when <= code[2] and key != code[0]}
    optimum_s = mails / IN_A_BATCH / rate
    requests = sum(answers.values())
    return {
        "mails": mails,
        "rate": rate,
        # The first request starts the clock of the last one's slot, which is used as well.
        "seconds": round((max(at) - min(at)) / 1000 + 1 / rate, 2),
        "optimum_s": optimum_s,
        "requests": requests,
        "throttled_percent": round(100 * answers.get("rate_limited", 0) / requests, 2),
        "twice": len(at) - len({mail[1] for mail in stand_in.accepted}),
        "code_ms": code[2] - asked_ms,
        "code_slots": 1 + len(before),
    }


async def unlimited(url: str, folder: Path, mails: int) -> dict[str, Any]:
    """A backlog without a limit, and codes all the while."""
    async with provider(folder, None) as stand_in:
        bench = Bench(url, "unlimited", stand_in, folder)
        await bench.remind(mails)
        async with bench.daemon as daemon:
            asked, memory, used_s = await _codes_meanwhile(bench, mails, daemon)
            await bench.accepted(mails + len(asked), within_s=60)
            answers = await bench.answers()
        await bench.connection.close()
    bulk = [when for _, to, when in stand_in.accepted if to.startswith("person")]
    waits = [when - asked[to] for _, to, when in stand_in.accepted if to.startswith("code")]
    cuts = quantiles(waits, n=100)
    return {
        "mails": mails,
        "mails_per_s": round(mails / ((max(bulk) - min(bulk)) / 1000)),
        # What the daemon alone would do in a second of a processor, whoever else is at work on this machine.
        "mails_per_cpu_s": round((mails + len(asked)) / used_s),
        "mails_per_request": round(mails / max(1, sum(answers.values()) - len(asked)), 1),
        "codes": len(asked),
        "code_p50_ms": round(cuts[49], 1),
        "code_p99_ms": round(cuts[98], 1),
        "code_max_ms": max(waits),
        "twice": len(stand_in.accepted) - len({mail[1] for mail in stand_in.accepted}),
        "rss_mb": memory,
    }


async def _codes_meanwhile(bench: Bench, mails: int, daemon: Daemon) -> tuple[dict[str, int], list[float], float]:
    """Ask for a code again and again until the backlog is gone.

    Returns when for whom, the daemon's memory by quarters, and its processor time, seconds.
    """
    await bench.accepted(1, within_s=60)
    asked: dict[str, int] = {}
    memory: list[float] = []
    assert daemon.process is not None
    before_s = cpu_s(daemon.process.pid)
    for number in _numbers():
        done = bench.provider.look()
        if done - len(asked) >= mails:
            break
        if len(memory) < math.ceil(4 * done / mails):
            memory.append(rss_mb(daemon.process.pid))
        asked[f"code{number}@mail.dev"] = await bench.ask_for_code(number)
        await asyncio.sleep(CODE_EVERY_S)
    return asked, [*memory, rss_mb(daemon.process.pid)], cpu_s(daemon.process.pid) - before_s


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
    table.add_row("  answered 429, %", f"{tight['throttled_percent']}")
    table.add_row("  a code in the middle leaves with slot / after ms", f"{tight['code_slots']} / {tight['code_ms']}")
    table.add_row(f"{wide['mails']} reminders without a limit, mails/s", f"{wide['mails_per_s']}")
    table.add_row("  mails/s of the daemon's processor time", f"{wide['mails_per_cpu_s']}")
    table.add_row("  mails a request", f"{wide['mails_per_request']}")
    table.add_row("  codes meanwhile, p50 / p99 ms", f"{wide['code_p50_ms']} / {wide['code_p99_ms']}")
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

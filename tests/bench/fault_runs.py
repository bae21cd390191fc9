"""Fault runs: real daemons under a steady load, one fault injected again and again, and what may never happen.

`python -m tests.bench.fault_runs [--minutes 10] [--fault NAME]… [--json FILE]`, on loopback only. Exit code 1 if an
email was lost, sent twice (with Postgres) or failed, the ledger is wrong, a daemon ended or is not ready at the end, or
memory or descriptors grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic
from typing import Any

import uvloop
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from flowstate_daemon.base import logs
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.delivery import Provider
from tests.bench.fault_load import Account, Producer, balance, connect, unsettled
from tests.bench.faults import FAULTS, Fault
from tests.bench.flowstate import cpu_s, rss_mb
from tests.support.daemon import Daemon
from tests.support.fake_resend import API_KEY

SAMPLE_S = 5.0
WARM_UP_S = 60.0
DRAIN_WITHIN_S = 300.0
STOP_WITHIN_S = 30.0
MAX_MINUTES, MAX_RATE, MAX_DAEMONS = 120.0, 300.0, 4
MAX_GROWTH_MB = 24.0  # the memory of what was sent fills up with 20,000 emails
MAX_GROWTH_FDS = 16
SHOWN_LOSS = 10


@dataclass
class Watch:
    """Samples of one daemon: memory and open descriptors."""

    daemon: Daemon
    rss: list[float] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    cpu: float = 0.0
    exit_code: int | None = None

    def sample(self) -> None:
        assert self.daemon.process is not None
        if self.daemon.process.returncode is not None:
            self.exit_code = self.daemon.process.returncode
            return
        pid = self.daemon.process.pid
        self.rss.append(rss_mb(pid))
        self.fds.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
        self.cpu = cpu_s(pid)

    def ends(self, values: Sequence[float]) -> tuple[float, float]:
        """The middle of the first samples after warming up, and of the last ones."""
        skipped = min(round(WARM_UP_S / SAMPLE_S), len(values) // 4)
        width = max(1, min(round(WARM_UP_S / SAMPLE_S), len(values) // 4))
        return round(median(values[skipped : skipped + width]), 1), round(median(values[-width:]), 1)


@dataclass
class Result:
    """One run, as it is printed."""

    fault: str
    seed: int
    minutes: float
    faults: int
    account: Account
    unsettled: int
    exits: list[int]
    ready: list[bool]
    stopped: list[int | None]
    rss_mb: list[tuple[float, float, float]]  # first, last, most
    fds: list[tuple[float, float, int]]
    rss_samples: list[list[float]]
    cpu_s: list[float]
    dropped_log_lines: int
    log: dict[str, int]
    with_postgres: bool

    def broken(self) -> list[str]:
        """The invariants that did not hold."""
        account = self.account
        checks = {
            "lost": account.lost,
            "failed": account.failed,
            "unsettled": self.unsettled,
            "twice": account.twice if self.with_postgres else 0,
            "ledger": account.ledger_wrong or 0,
            "exits": len(self.exits),
            "not ready": self.ready.count(False),
            "stop": sum(code != 0 for code in self.stopped),
            "memory": sum(last - first > MAX_GROWTH_MB for first, last, _ in self.rss_mb),
            "descriptors": sum(last - first > MAX_GROWTH_FDS for first, last, _ in self.fds),
        }
        return [f"{name}: {count}" for name, count in checks.items() if count]


def daemons_of(fault: Fault, provider: Provider, folder: Path, count: int) -> list[Daemon]:
    made = []
    for number in range(count):
        instance = f"{fault.name}-{number}"
        launch = fault.launch(instance)
        settings = {
            "RESEND_API_URL": provider.url,
            "RESEND_API_KEY": API_KEY,
            "FLOWSTATE_QUEUE_PREFIX": fault.keys.prefix,
            **fault.settings,
            **launch.settings,
        }
        made.append(Daemon(settings, folder, instance=instance, module=launch.module, stderr=launch.stderr))
    return made


async def start_provider(stack: AsyncExitStack, folder: Path, given: argparse.Namespace) -> Provider:
    """The fake provider as a process of its own, with a rate limit and a latency, so that emails leave in batches."""
    journal = folder / "accepted.jsonl"
    journal.touch()
    options = ["--journal", str(journal), "--rate", str(given.provider_rate), "--latency-ms", "60"]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.fake_resend", *options, stdout=asyncio.subprocess.PIPE
    )
    stack.push_async_callback(child.wait)
    stack.callback(child.terminate)
    assert child.stdout is not None
    return Provider((await child.stdout.readline()).decode().strip(), journal)


async def inject(fault: Fault, producer: Producer, seconds: float) -> None:
    """The fault, again and again, at intervals that vary by half."""
    ends_at = monotonic() + seconds
    while True:
        pause_s = fault.interval_s * fault.random.uniform(0.5, 1.5)
        if monotonic() + pause_s > ends_at:
            return
        await asyncio.sleep(pause_s)
        await fault.inject(producer)


async def sample(watches: Sequence[Watch], ended: asyncio.Event) -> None:
    while not ended.is_set():
        for watch in watches:
            watch.sample()
        try:
            async with asyncio.timeout(SAMPLE_S):
                await ended.wait()
        except TimeoutError:
            continue


async def load(fault: Fault, producer: Producer, watches: Sequence[Watch], seconds: float) -> int:
    """Produce and inject for this long, then wait until all is settled. Returns how many jobs were not."""
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(sample(watches, ended))
        try:
            async with asyncio.TaskGroup() as work:
                work.create_task(producer.run(seconds))
                work.create_task(inject(fault, producer, seconds))
            await fault.heal()
            return await drain(fault)
        finally:
            ended.set()


async def drain(fault: Fault) -> int:
    """Wait until no job waits or is in flight; returns how many still do."""
    client = await connect(fault.producer_url)
    ends_at = monotonic() + DRAIN_WITHIN_S
    try:
        while (left := await unsettled(client, fault.keys)) and monotonic() < ends_at:
            await asyncio.sleep(0.5)
        return left
    finally:
        await client.aclose()


async def close_books(fault: Fault, producer: Producer, provider: Provider) -> Account:
    """The account, when the ledger has caught up or does not any more."""
    client = await connect(fault.producer_url)
    try:
        account: Account | None = None
        for _ in range(20):
            account = await balance(producer, provider.read_ids(), client, fault.keys, fault.database_url)
            if not account.ledger_wrong:
                break
            await asyncio.sleep(SAMPLE_S)
        assert account is not None
        return account
    finally:
        await client.aclose()


async def run(fault: Fault, given: argparse.Namespace, folder: Path) -> Result:
    async with AsyncExitStack() as stack:
        await fault.start(stack)
        provider = await start_provider(stack, folder, given)
        daemons = daemons_of(fault, provider, folder, given.daemons)
        for daemon in daemons:
            await stack.enter_async_context(daemon)
            await daemon.ready(within_s=60)
        producer = Producer(fault.producer_url, fault.keys, given.rate, fault.random)
        stack.push_async_callback(producer.close)
        watches = [Watch(daemon) for daemon in daemons]
        started = monotonic()
        left = await load(fault, producer, watches, given.minutes * 60)
        minutes = (monotonic() - started) / 60
        ready = [await daemon.is_ready() for daemon in daemons]
        dropped = sum([await log_lines_dropped(daemon) for daemon in daemons])
        account = await close_books(fault, producer, provider)
        for watch in watches:
            watch.sample()
        return Result(
            fault=fault.name,
            seed=given.seed,
            minutes=round(minutes, 1),
            faults=fault.count,
            account=account,
            unsettled=left,
            exits=[watch.exit_code for watch in watches if watch.exit_code is not None],
            ready=ready,
            stopped=[await stop(daemon) for daemon in daemons],
            rss_mb=[(*watch.ends(watch.rss), max(watch.rss)) for watch in watches],
            fds=[(*watch.ends(watch.fds), max(watch.fds)) for watch in watches],
            rss_samples=[watch.rss for watch in watches],
            cpu_s=[watch.cpu for watch in watches],
            dropped_log_lines=dropped,
            log=events(daemons),
            with_postgres=fault.postgres,
        )


async def log_lines_dropped(daemon: Daemon) -> int:
    _, page = await daemon.look("/metrics")
    name = "flowstate_log_lines_dropped_total"
    return sum(round(float(line.split()[1])) for line in page.splitlines() if line.startswith(name))


async def stop(daemon: Daemon) -> int | None:
    """The exit code after SIGTERM; None if the daemon did not end in time."""
    assert daemon.process is not None
    if daemon.process.returncode is None:
        daemon.send(signal.SIGTERM)
    try:
        return await daemon.ended(within_s=STOP_WITHIN_S)
    except TimeoutError:
        return None


def events(daemons: Sequence[Daemon]) -> dict[str, int]:
    """How often each warning and error was logged."""
    found: Counter[str] = Counter()
    for daemon in daemons:
        for line in daemon.log_text().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                found["not JSON"] += 1
                continue
            if event.get("level") in ("warning", "error", "critical"):
                found[f"{event['level']} {event.get('event')}"] += 1
    return dict(found.most_common())


def show(results: Sequence[Result]) -> None:
    table = Table(title="Fault runs", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("fault", overflow="fold")
    for column in ("min", "faults", "emails", "lost", "twice", "failed", "exits", "RSS, MB", "fds"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        account = result.account
        table.add_row(
            result.fault,
            *map(str, (round(result.minutes), result.faults, account.required)),
            *map(str, (account.lost, account.twice, account.failed, len(result.exits))),
            *(
                "\n".join(f"{first:.0f} → {last:.0f}" for first, last, _ in ends)
                for ends in (result.rss_mb, result.fds)
            ),
        )
    Console().print(table)
    for result in results:
        if broken := result.broken():
            print(f"{result.fault}: {', '.join(broken)}")


async def run_all(given: argparse.Namespace) -> list[Result]:
    results = []
    for name in given.fault or [name for name in FAULTS if name != Fault.name]:
        folder = Path(tempfile.mkdtemp(prefix="flowstate-faults-"))
        print(f"fault run: {name}, {given.minutes:g} minutes, {FAULTS[name].text} ({folder})", file=sys.stderr)
        fault = FAULTS[name](Random(f"{given.seed} {name}"), folder, Keys(f"faults-{name}"))
        results.append(await run(fault, given, folder))
        if given.json is not None:  # after each run: a later one may be interrupted
            rows = [{**asdict(result), "broken": result.broken()} for result in results]
            given.json.write_text(json.dumps(rows, indent=2) + "\n")
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return results


def bounded(most: float) -> Any:
    def parse(text: str) -> float:
        value = float(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"must be above 0 and at most {most:g}")
        return value

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fault_runs", description=__doc__)
    parser.add_argument("--minutes", type=bounded(MAX_MINUTES), default=10.0)
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS), help="may be repeated; default: all")
    parser.add_argument("--rate", type=bounded(MAX_RATE), default=60.0, help="emails per second")
    parser.add_argument("--provider-rate", type=int, default=5, help="requests per second that the provider allows")
    parser.add_argument("--daemons", type=int, choices=range(1, MAX_DAEMONS + 1), default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep logs and the provider's journal")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    given = parser.parse_args()
    logs.configure("warning")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(run_all(given))
    show(results)
    sys.exit(1 if any(result.broken() for result in results) else 0)


if __name__ == "__main__":
    main()

"""One chaos round: start the world, produce and inject, wait until nothing moves, and read the history."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

from flowstate_daemon.base.address import normalise_address
from tests.bench.flowstate import rss_mb
from tests.chaos.faults import inject_all
from tests.chaos.history import Accepted, FailedJob, History, LedgerRow, Life, ScheduledRow
from tests.chaos.invariants import Exceptions, Violation, check, find_exceptions
from tests.chaos.plan import Plan
from tests.chaos.world import Host, World, open_world, stop_all

SAMPLE_S = 1.0
SCRAPE_WITHIN_S = 0.5
DRAIN_WITHIN_S = 300.0  # longer than the daemon waits for the outcome of a request that Redis has lost
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 30.0
TASKS = "flowstate_asyncio_tasks"
SCHEDULED = """
SELECT u.email, s.kind, s.state, s.job_id, s.reason, EXISTS (
    SELECT FROM flowstate_daemon.request_members AS r
    WHERE starts_with(r.mail, $1 || s.job_id || ':') AND NOT r.free
) AS recorded
FROM flowstate_daemon.scheduled_mails AS s
JOIN users AS u ON u.id = s.user_id;
"""
Progress = Callable[[float, str], None]


@dataclass
class RoundResult:
    """One round, as it is reported."""

    plan: Plan
    history: History
    violations: list[Violation]
    exceptions: Exceptions
    faults: dict[str, int]
    seconds: float
    log: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The figures, without the emails."""
        history = self.history
        accepted = {email.to for email in history.accepted}
        lives = [life for life in history.lives if len(life.rss_mb) > 1]
        return {
            "plan": {name: value for name, value in self.plan.as_dict().items() if name != "faults"},
            "seconds": round(self.seconds, 1),
            "faults": self.faults,
            "emails": sum(email.is_required for email in history.produced),
            "codes": sum(email.is_required and email.kind != "welcome" for email in history.produced),
            "unknown": sum(email.job_id is None for email in history.produced),
            "lost_with_redis": sum(email.lost for email in history.produced),
            "lost_after_sending": sum(email.lost and email.to in accepted for email in history.produced),
            "scheduled": len(history.expected),
            "accepted": len(history.accepted),
            "taken_by_bull": len(history.taken_by_bull),
            "failed": len(history.failed),
            "exceptions": {name: len(found) for name, found in asdict(self.exceptions).items()},
            "processes": len(history.lives),
            "most_rss_mb": max((max(life.rss_mb) for life in lives), default=0.0),
            "most_fds": max((max(life.fds) for life in lives), default=0),
            "most_tasks": max((max(life.tasks, default=0) for life in lives), default=0),
            "violations": [asdict(violation) for violation in self.violations],
            "log": self.log,
        }


class UnplannedFailoverError(Exception):
    """Redis had one more failover than was planned: what it has lost by that is unknown, so the round says nothing."""


class Sampler:
    """Samples memory, descriptors and tasks of each process of each daemon."""

    def __init__(self, world: World) -> None:
        self.lives: list[Life] = []
        self.exits: list[int] = []
        self._world = world
        self._current: dict[int, tuple[int, Life]] = {}  # by daemon: process id, life

    async def run(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            await asyncio.gather(*(self._sample(host) for host in self._world.hosts))
            with suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE_S):
                    await ended.wait()

    async def _sample(self, host: Host) -> None:
        process = host.daemon.process
        if process is None:
            return
        known = self._current.get(host.number)
        if known is None or known[0] != process.pid:
            self._current[host.number] = known = (process.pid, Life(host.number))
            self.lives.append(known[1])
        if process.returncode is not None:
            if not host.expected_end and process.pid == known[0] and known[0] > 0:
                self.exits.append(process.returncode)
                host.expected_end = True  # counted once
            return
        life = known[1]
        with suppress(FileNotFoundError, ProcessLookupError):
            life.rss_mb.append(rss_mb(process.pid))
            life.fds.append(len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
        if not host.lock.locked():
            _, page = await host.daemon.look("/metrics", within_s=SCRAPE_WITHIN_S)
            life.tasks += [round(float(line.split()[1])) for line in page.splitlines() if line.startswith(f"{TASKS} ")]


async def run_round(plan: Plan, folder: Path, progress: Progress) -> RoundResult:
    """Run a plan; `folder` gets the logs. `progress` is called with seconds passed and what goes on."""
    started = monotonic()
    counts: Counter[str] = Counter()
    async with open_world(plan, folder) as world:
        sampler = Sampler(world)
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(sampler.run(ended), name="sampler")
            group.create_task(_report(world, counts, progress, ended), name="progress")
            try:
                async with asyncio.TaskGroup() as work:
                    work.create_task(world.producer.run(plan.seconds), name="producer")
                    work.create_task(inject_all(world, counts), name="faults")
                await _settle(world)
            finally:
                ended.set()
        await _check_failovers(world, counts)
        not_ready = [host.number for host in world.hosts if not await host.daemon.is_ready()]
        history = await _read(world, sampler, not_ready)
        stops = await stop_all(world, STOP_WITHIN_S)
    history = replace(history, stops=stops)
    return RoundResult(
        plan=plan,
        history=history,
        violations=check(history, plan),
        exceptions=find_exceptions(history, plan),
        faults=dict(counts),
        seconds=monotonic() - started,
        log=events(folder),
    )


async def _check_failovers(world: World, counts: Counter[str]) -> None:
    if world.sentinel is not None and await world.sentinel.failovers() > counts["redis-failover"]:
        raise UnplannedFailoverError("the sentinel replaced a primary that was alive: this machine is too busy")


async def _report(world: World, counts: Counter[str], progress: Progress, ended: asyncio.Event) -> None:
    started = monotonic()
    while not ended.is_set():
        progress(monotonic() - started, f"{len(world.producer.produced)} emails, {counts.total()} faults")
        with suppress(TimeoutError):
            async with asyncio.timeout(SAMPLE_S):
                await ended.wait()


async def _settle(world: World) -> None:
    """Wait until no job waits or is in flight, all outcomes are in the ledger, and all daemons are ready."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_WITHIN_S):
            while not await _is_settled(world):
                await asyncio.sleep(0.5)
    with suppress(TimeoutError):
        async with asyncio.timeout(READY_WITHIN_S):
            while not all([await host.daemon.is_ready() for host in world.hosts]):
                await asyncio.sleep(0.5)


async def _is_settled(world: World) -> bool:
    client = Redis.from_url(world.redis_url, decode_responses=True, protocol=2)
    try:
        if await _unsettled(client, world) or await client.llen(world.keys.own("journal")):
            return False
    finally:
        await client.aclose()
    server = await asyncpg.connect(world.database_url)
    try:
        rows = await server.fetch(SCHEDULED, world.keys.base)
    finally:
        await server.close()
    # One that Redis has lost with its request, or Bull has completed after a claim, ends after ten minutes.
    known = world.bull.taken if world.bull is not None else {}
    open_rows = [row for row in rows if row["state"] in ("planned", "queued")]
    waiting = [row for row in open_rows if not row["recorded"] and row["job_id"] not in known]
    return len(rows) == len(world.scheduled.expected) and not waiting


async def _unsettled(client: Redis, world: World) -> list[str]:
    found: list[str] = []
    for name in ("wait", "active", "paused"):
        found += map(str, await client.lrange(world.keys(name), 0, -1))
    return found + list(map(str, await client.zrange(world.keys("delayed"), 0, -1)))


async def _read(world: World, sampler: Sampler, not_ready: list[int]) -> History:
    client = Redis.from_url(world.redis_url, decode_responses=True, protocol=2)
    try:
        unsettled = await _unsettled(client, world)
        journal = int(await client.llen(world.keys.own("journal")))
        failed = []
        for job_id in map(str, await client.zrange(world.keys("failed"), 0, -1)):
            data, reason = await client.hmget(world.keys.job(job_id), "data", "failedReason")
            to = msgspec.json.decode(data)["to"] if data else ""
            failed.append(FailedJob(job_id, to, str(reason)))
    finally:
        await client.aclose()
    ledger, scheduled = await _read_database(world.database_url, world.keys.base)
    return History(
        produced=world.producer.produced,
        accepted=read_accepted(world.folder),
        ledger=ledger,
        failed=failed,
        unsettled=unsettled,
        journal=journal,
        taken_by_bull=world.bull.taken if world.bull is not None else {},
        expected=world.scheduled.expected,
        scheduled=scheduled,
        lives=sampler.lives,
        exits=sampler.exits,
        not_ready=not_ready,
    )


async def _read_database(url: str, base: str) -> tuple[list[LedgerRow], list[ScheduledRow]]:
    server = await asyncpg.connect(url)
    try:
        mails = await server.fetch(
            "SELECT mail, job_id, address, kind, attempt, outcome, provider_id, reason FROM flowstate_daemon.mails"
            " ORDER BY at"
        )
        rows = await server.fetch(SCHEDULED, base)
    finally:
        await server.close()
    return [LedgerRow(*row) for row in mails], [ScheduledRow(*row) for row in rows]


def read_accepted(folder: Path) -> list[Accepted]:
    """What the provider has accepted, from its record."""
    accepted = []
    for line in (folder / "accepted.jsonl").read_text().splitlines():
        mail = json.loads(line)
        accepted.append(
            Accepted(mail["id"], normalise_address(mail["to"][0]), mail["subject"], mail["key"], mail["at"])
        )
    return accepted


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The log of all daemons in the order of time; lines that a full disk has cut are left out."""
    lines = []
    for file in sorted(folder.glob("daemon-*.log")):
        for text in file.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    lines.append(line | {"daemon": file.stem})
    return sorted(lines, key=lambda line: str(line.get("timestamp", "")))


def events(folder: Path) -> dict[str, int]:
    """How often each warning and error was logged."""
    found: Counter[str] = Counter()
    for line in log_lines(folder):
        if line.get("level") in ("warning", "error", "critical"):
            found[f"{line['level']} {line.get('event')}"] += 1
    return dict(found.most_common())

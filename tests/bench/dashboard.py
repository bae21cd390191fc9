"""The operator's pages and the API beside many jobs: first byte of each, and what open pages cost the delivery.

`python -m tests.bench.dashboard [--full]`; part of `make bench`. The daemon is the real one, in a child process. At
first the provider has no limit; then it allows few requests, so that the jobs stay while the pages are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from aiohttp import ClientSession, ClientTimeout, CookieJar
from rich.console import Console
from rich.table import Table

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.dev.embedded import NON_DURABLE_SETTINGS, EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.dashboard_data import HOT, fill_database, fill_queue
from tests.bench.delivery import Provider, provider
from tests.bench.flowstate import cpu_s
from tests.support.daemon import Daemon
from tests.support.fake_resend import API_KEY

FEW, MANY = 200_000, 1_000_000
TOKEN = "b4" * 20
PREFIX = "pages"
REPETITIONS = 5
PAUSE_S = 0.06  # the API allows 20 requests a second
GOAL_MS = 200
VIEWERS = 10
ROUNDS, ROUND_S, SETTLE_S = 4, 10.0, 2.0
NOTHING = "nothing-matches-this"
PAGES = (
    "", "?span=day", "?span=week", "recipients", "recipients?address=person17@mail.dev", f"recipients?address={HOT}",
    "recipients?address=nobody@mail.dev", "schedules", "failures", "provider", "system", "actions",
    *(f"emails?state={state}" for state in ("wait", "active", "delayed", "failed", "completed")),
    "emails?state=failed&reason=timeout",
    *(
        f"emails?state={state}&{wanted}"
        for state in ("wait", "failed", "completed")
        for wanted in (f"reason={NOTHING}", "recipient=person17@", f"recipient={NOTHING}", "kind=otp", "older_than=6d",
                       "older_than=30d", "newer_than=1s")
    ),
    "emails", "emails?state=skipped", "emails?state=expired", f"emails?reason={NOTHING}", "emails?reason=422",
    "emails?recipient=person17@mail.dev", f"emails?recipient={HOT}", f"emails?recipient={NOTHING}",
    f"emails?recipient={HOT}&reason={NOTHING}", "emails?kind=otp", "emails?older_than=6d", "emails?older_than=30d",
    "emails?newer_than=1s",
    "emails/preview?action=retry&state=failed", f"emails/preview?action=retry&state=failed&reason={NOTHING}",
    "emails/preview?action=remove&state=wait&recipient=person17@",
    "jobs/wait{middle}", "jobs/failed{middle}", "jobs/completed{middle}", "jobs/nothing",
    "mail?key=bull:email:old{middle}:1", "mail?key=nothing",
)  # fmt: skip
LISTS = (
    "/queue", "/failures", "/audit?limit=1000", "/instances", "/provider", "/actions", "/schedules",
    "/statistics?span=week", "/suppressions?limit=1000", "/unsubscribes?limit=1000",
    "/jobs?state=wait", "/jobs?state=wait&limit=1000", "/jobs?state=failed&cursor={middle}",
    f"/jobs?state=failed&reason={NOTHING}", "/jobs?state=wait&recipient=person17@", "/jobs?state=completed&kind=otp",
    "/jobs?state=failed&older_than=6d", "/jobs?state=failed&older_than=30d", "/jobs/wait{middle}",
    "/emails", "/emails?limit=1000", f"/emails?reason={NOTHING}", "/emails?outcome=expired", "/emails?kind=otp",
    "/emails?older_than=30d", f"/emails?recipient={HOT}&reason={NOTHING}", "/emails/bull:email:old{middle}:1",
    "/recipients/person17@mail.dev", f"/recipients/{HOT}?limit=1000",
)  # fmt: skip
EVERYTHING_THAT_FAILED = {"action": "retry", "state": "failed", "filter": {"kind": ["task-reminder"]}}


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon with a client that is logged in and sends the token."""

    daemon: Daemon
    client: ClientSession
    clock: Clock

    async def first_byte_ms(self, path: str) -> float:
        """How long the first byte of a response takes. Raises RuntimeError for an error of the server."""
        await asyncio.sleep(PAUSE_S)
        started = self.clock.monotonic()
        async with self.client.get(path, allow_redirects=False) as response:
            taken = self.clock.monotonic() - started
            text = await response.text()
            if response.status not in (200, 404):
                raise RuntimeError(f"{path}: {response.status} {text[:500]}")
        return taken * 1000

    async def call(self, method: str, path: str, document: Any = None) -> tuple[float, Any]:
        """The time of an API call in ms, and its document."""
        started = self.clock.monotonic()
        async with self.client.request(method, f"/api/v1{path}", json=document) as response:
            content = await response.read()
            if response.status >= 400:
                raise RuntimeError(f"{path}: {response.status} {content[:500]!r}")
        return (self.clock.monotonic() - started) * 1000, json.loads(content) if content else None


@asynccontextmanager
async def site(settings: dict[str, str], folder: Path, fake: Provider, name: str) -> AsyncIterator[Site]:
    environment = {
        **settings,
        "RESEND_API_URL": fake.url,
        "RESEND_API_KEY": API_KEY,
        "FLOWSTATE_QUEUE_PREFIX": PREFIX,
        "FLOWSTATE_QUEUE_FAILED_MAX_COUNT": "0",
        "FLOWSTATE_SCHEDULE_FOREIGN_JOBS": "send",  # the jobs are of a kind that the daemon plans itself
        "FLOWSTATE_HTTP_API_TOKEN": TOKEN,
        "FLOWSTATE_LOG_LEVEL": "warning",
    }
    async with Daemon(environment, folder, instance=name) as daemon:
        await daemon.ready(within_s=60)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"http://127.0.0.1:{daemon.port}"
        timeout = ClientTimeout(total=60)
        async with ClientSession(url, headers=headers, cookie_jar=CookieJar(unsafe=True), timeout=timeout) as client:
            async with client.post("/dashboard/login", data={"token": TOKEN}, allow_redirects=False) as response:
                assert response.status == 303, await response.text()
            yield Site(daemon, client, Clock())


async def first_bytes(site: Site, count: int) -> dict[str, list[float]]:
    """The times of each page and list, in ms, in the order of the repetitions."""
    paths = [f"/dashboard/{path}" for path in PAGES] + [f"/api/v1{path}" for path in LISTS]
    found: dict[str, list[float]] = {path.format(middle=count // 2): [] for path in paths}
    for _ in range(REPETITIONS):
        for path, times in found.items():
            times.append(round(await site.first_byte_ms(path), 1))
    return found


async def bulk_action(site: Site) -> dict[str, Any]:
    """An action on every failed job: its preview, its speed, and how long a stop takes."""
    previews = [await site.call("POST", "/action-previews", EVERYTHING_THAT_FAILED) for _ in range(3)]
    _, action = await site.call("POST", "/actions", EVERYTHING_THAT_FAILED)
    path, started = f"/actions/{action['id']}", site.clock.monotonic()
    while True:
        await asyncio.sleep(PAUSE_S)
        _, action = await site.call("GET", path)
        elapsed = site.clock.monotonic() - started
        if action["finished_at"] is not None or elapsed > ROUND_S:
            break
    stopping = site.clock.monotonic()
    if action["finished_at"] is None:
        await site.call("DELETE", path)
        while (await site.call("GET", path))[1]["finished_at"] is None:
            await asyncio.sleep(PAUSE_S)
    stop_s = site.clock.monotonic() - stopping
    return {
        "matching": previews[0][1]["matching"],
        "preview_ms": [round(taken) for taken, _ in previews],
        "jobs_per_s": round(action["done"] / elapsed),
        "stop_ms": round(stop_s * 1000),
    }


async def viewer_cost(site: Site) -> dict[str, float]:
    """The CPU time of a daemon that has little to do, in ms a second, with and without open pages."""
    assert site.daemon.process is not None
    pid, spent = site.daemon.process.pid, {0: 0.0, VIEWERS: 0.0}
    for viewers in (0, VIEWERS) * 2:  # in turn, so that other work of the daemon affects both
        watching = [asyncio.create_task(watch(site)) for _ in range(viewers)]
        await asyncio.sleep(SETTLE_S)
        used_s = cpu_s(pid)
        await asyncio.sleep(ROUND_S)
        spent[viewers] += cpu_s(pid) - used_s
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    closed, open_ = (round(1000 * one / (2 * ROUND_S), 1) for one in spent.values())
    return {"closed_ms_per_s": closed, "open_ms_per_s": open_}


async def drained(site: Site, fake: Provider, *, viewers: int) -> dict[str, float]:
    """How many emails are sent in a second, and in a second of the daemon's CPU time, while pages are open."""
    assert site.daemon.process is not None
    pid = site.daemon.process.pid
    watching = [asyncio.create_task(watch(site)) for _ in range(viewers)]
    await asyncio.sleep(SETTLE_S)
    before, used_s, started = fake.read_journal(), cpu_s(pid), site.clock.monotonic()
    await asyncio.sleep(ROUND_S)
    mails = fake.read_journal() - before
    used_s, seconds = cpu_s(pid) - used_s, site.clock.monotonic() - started
    for task in watching:
        task.cancel()
    received = await asyncio.gather(*watching, return_exceptions=True)
    problems = [one for one in received if isinstance(one, Exception)]
    if problems:
        raise problems[0]
    return {"per_s": round(mails / seconds), "per_cpu_s": round(mails / used_s)}


async def watch(site: Site) -> None:
    """A browser that shows the first page."""
    async with site.client.get("/dashboard/") as page:
        await page.read()
    async with site.client.get("/dashboard/now/events") as events:
        assert events.status == 200, events.status
        async for _ in events.content.iter_any():
            pass


async def drain(settings: dict[str, str], folder: Path) -> dict[str, Any]:
    """The same backlog with and without open pages, in turn."""
    rounds: dict[str, list[dict[str, float]]] = {"closed": [], "open": []}
    async with provider(folder, None) as fake, site(settings, folder, fake, "drain") as one:
        for number in range(ROUNDS):
            order = ("closed", "open") if number % 2 == 0 else ("open", "closed")
            for name in order:
                rounds[name].append(await drained(one, fake, viewers=VIEWERS if name == "open" else 0))
    return {"viewers": VIEWERS, **rounds, **{name: slowdown(rounds, name) for name in ("per_s", "per_cpu_s")}}


def slowdown(rounds: dict[str, list[dict[str, float]]], name: str) -> float:
    """By how many per cent the median of the rounds with open pages is below that of those without. Pure."""
    middle = {which: median(one[name] for one in found) for which, found in rounds.items()}
    return round(100 * (1 - middle["open"] / middle["closed"]), 1)


async def dashboard(*, full: bool, only: Sequence[str] = ()) -> dict[str, Any]:
    count = MANY if full else FEW
    clock = Clock()
    async with AsyncExitStack() as stack:
        # Without waiting for the disk, which other programs use too: the daemon is to be what limits the rate.
        settings = {**NON_DURABLE_SETTINGS, "shared_buffers": "512MB"}
        postgres = await stack.enter_async_context(EmbeddedPostgres(settings=settings))
        valkey = await stack.enter_async_context(EmbeddedValkey())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = clock.monotonic()
        await asyncio.gather(
            fill_database(postgres.url(), count), fill_queue(valkey.url, Keys(PREFIX), count, clock.now_ms())
        )
        figures: dict[str, Any] = {"jobs": 3 * count, "rows": count, "fill_s": round(clock.monotonic() - started, 1)}
        settings = {"REDIS_URL": valkey.url, "DATABASE_URL": postgres.url()}
        if not only or "drain" in only:
            figures["drain"] = await drain(settings, folder)
        if not only or "pages" in only:
            async with provider(folder, 1) as fake, site(settings, folder, fake, "pages") as one:
                figures["first_byte_ms"] = await first_bytes(one, count)
                figures["viewers"] = await viewer_cost(one)
                figures["action"] = await bulk_action(one)
    return figures


def show(figures: dict[str, Any]) -> None:
    rows, jobs = figures["rows"], figures["jobs"]
    console = Console()
    if "first_byte_ms" in figures:
        table = Table(title=f"First byte, ms, with {jobs:,} jobs and {rows:,} ledger rows", title_justify="left")
        for column in ("", "first", "best", "median", "max", "goal"):
            table.add_column(column, justify="right" if column else "left")
        for path, times in sorted(figures["first_byte_ms"].items(), key=lambda item: -median(item[1])):
            numbers = (times[0], min(times), median(times), max(times))
            table.add_row(path, *map(str, numbers), f"< {GOAL_MS}")
        console.print(table)
        one = figures["action"]
        table = Table(title="An action on every failed job", title_justify="left", show_header=False)
        table.add_row("jobs that match", f"{one['matching']:,}")
        table.add_row("preview, ms", " ".join(map(str, one["preview_ms"])))
        table.add_row("jobs per second", f"{one['jobs_per_s']:,}")
        table.add_row("stopped after ms", str(one["stop_ms"]))
        console.print(table)
        cost = figures["viewers"]
        console.print(
            f"CPU time of the daemon with {VIEWERS} open pages {cost['open_ms_per_s']} ms a second, "
            f"without {cost['closed_ms_per_s']} ms"
        )
    if "drain" in figures:
        one = figures["drain"]
        table = Table(title=f"Delivery with {one['viewers']} open pages", title_justify="left")
        for column in ("", "closed", "open", "slower by %", "goal"):
            table.add_column(column, justify="right" if column else "left")
        for text, name in (("emails/s", "per_s"), ("emails/s of CPU time", "per_cpu_s")):
            cells = (" ".join(str(found[name]) for found in one[which]) for which in ("closed", "open"))
            table.add_row(text, *cells, str(one[name]), "< 5")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dashboard", description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"{MANY:,} jobs in each state instead of {FEW:,}")
    parser.add_argument("--only", action="append", default=[], choices=("pages", "drain"), help="only this part")
    given = parser.parse_args()
    logs.configure("warning")
    figures = asyncio.run(dashboard(full=given.full, only=given.only))
    show(figures)
    print(json.dumps(figures), file=sys.stderr)


if __name__ == "__main__":
    main()

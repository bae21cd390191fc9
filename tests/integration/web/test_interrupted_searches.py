"""What cannot be searched completely within the time of a page: it says so, and the search can go on."""

from __future__ import annotations

import re
from html import unescape

import asyncpg
import pytest
from redis.asyncio import Redis

from flowstate_daemon.database import mail_list
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.queue import search
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.integration.web.test_dashboard import Site, serve_dashboard
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome
from tests.support.operator_api import build_operator, build_recipients, serve_api

COUNT, BATCH = 40, 10
WANTED = "eva@example.org"


class SlowClock(FakeClock):
    """A tenth of a second passes at each look: time runs out after one or two pieces."""

    def monotonic(self) -> float:
        self._mono_s += 0.09
        return super().monotonic()


@pytest.fixture
def clock() -> FakeClock:
    return SlowClock()


@pytest.fixture
async def jobs(redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of the failed and of the waiting jobs are those that are looked for."""
    monkeypatch.setattr(search, "EXAMINE_BATCH", BATCH)
    monkeypatch.setattr(mail_list, "EXAMINE_BATCH", BATCH)
    stage = QueueFixture(redis, keys)
    for number in range(COUNT):
        data = f'{{"type": "welcome", "to": "{WANTED if number == 0 else f"p{number}@example.org"}", "context": {{}}}}'
        fields = {"name": "welcome", "data": data}
        at = BORN + number
        await stage.put(f"f{number}", "failed", at=at, failedReason=f"reason {number}", finishedOn=at, **fields)
        await stage.put(f"w{number}", "wait", at=at, **fields)


async def pages_until(site: Site, path: str, text: str) -> int:
    """How many times the operator goes on until the page has the text."""
    for number in range(COUNT):
        status, html = await site.get(path)
        assert status == 200
        if text in html:
            return number
        assert "older jobs not examined" in html or "has examined everything since" in html
        match = re.search(r'<a class="next" href="/dashboard/([^"]+)">Continue searching</a>', html)
        assert match, html
        path = unescape(match[1])
    raise AssertionError(f"{text} is on no page")


@pytest.mark.parametrize(("state", "job"), [("failed", "f0"), ("wait", "w0")])
async def test_queue_is_searched_to_the_end(
    connection: Connection, keys: Keys, clock: FakeClock, jobs: None, state: str, job: str
) -> None:
    """A page without a match is no end: the link goes on behind what was examined."""
    async with serve_dashboard(build_operator(connection, keys, clock), clock) as site:
        await site.log_in()
        assert await pages_until(site, f"emails?state={state}&recipient=eva", f"/jobs/{job}") > 0
        _, html = await site.get(f"emails?state={state}&recipient=nobody&position={COUNT - 5}")
        assert "Nothing matches." in html
        assert "Continue searching" not in html


@pytest.mark.parametrize(
    "wanted", ["reason=needle", "kind=otp", "state=sent&reason=needle", "state=skipped&reason=needle"]
)
async def test_ledger_is_searched_to_the_end(
    connection: Connection, keys: Keys, clock: FakeClock, pool: asyncpg.Pool, jobs: None, wanted: str
) -> None:
    result = "skipped" if "skipped" in wanted else "sent"
    rows = [outcome(number, outcome=result) for number in range(1, COUNT)]
    rows.append(outcome(0, outcome=result, kind="otp", reason="a needle"))
    await Ledger(pool, clock).write(rows)
    operator = build_operator(connection, keys, clock, build_recipients(pool, clock))
    async with serve_dashboard(operator, clock) as site:
        await site.log_in()
        assert await pages_until(site, f"emails?{wanted}", '<tr><td data-label="When">') > 0


async def test_recipient_page_names_what_it_has_not_searched(
    connection: Connection, keys: Keys, clock: FakeClock, jobs: None
) -> None:
    """Each state that is left has a form that goes on, without the address in a link."""
    async with serve_dashboard(build_operator(connection, keys, clock), clock) as site:
        await site.log_in()
        _, html = await site.get(f"recipients?address={WANTED}")
        assert "searched only in part" in html
        assert "No job in the queue is for this address" not in html
        assert {"failed", "wait"} == set(re.findall(r'name="state" value="(\w+)"', html))
        assert 'href="/dashboard/emails?state' not in html


async def test_preview_can_be_counted_for_longer(
    connection: Connection, keys: Keys, clock: FakeClock, jobs: None
) -> None:
    async with serve_dashboard(build_operator(connection, keys, clock), clock) as site:
        await site.log_in()
        _, html = await site.get("emails/preview?action=retry&state=failed&reason=reason")
        assert "Matching jobs (failed): about 40, estimated" in html
        match = re.search(r'href="/dashboard/(emails/preview[^"]+)">Count for longer', html)
        assert match
        _, html = await site.get(unescape(match[1]))
        assert "Matching jobs (failed): 40." in html
        assert "Count for longer" not in html


async def test_api_marks_partial_pages(
    connection: Connection, keys: Keys, clock: FakeClock, pool: asyncpg.Pool, jobs: None
) -> None:
    """A page may be empty and have a cursor; following the cursors finds every match once."""
    operator = build_operator(connection, keys, clock, build_recipients(pool, clock))
    async with serve_api(operator) as api:
        cursor, found, partial = 0, [], 0
        while cursor is not None:
            clock.advance(1)
            status, page = await api.get(f"/jobs?state=failed&recipient=eva&cursor={cursor}")
            assert status == 200
            assert (page["next_cursor"] is not None) == (page["partial"] or len(page["jobs"]) == 50)
            found += [job["id"] for job in page["jobs"]]
            partial += page["partial"]
            cursor = page["next_cursor"]
        assert (found, partial > 0) == (["f0"], True)


async def test_ages_are_found_without_examining_what_is_newer(
    connection: Connection, keys: Keys, clock: FakeClock, jobs: None
) -> None:
    """The end of a job is its score: old failed jobs are on the first page, whatever is in front of them."""
    job_search = build_operator(connection, keys, clock).search
    page = await job_search.page("failed", search.JobFilter(before=BORN + 2), count=5)
    assert [job.id for job in page.jobs] == ["f2", "f1", "f0"]
    assert (page.examined, page.remaining, page.next_position, page.is_partial) == (3, 0, None, False)
    counted = await job_search.count("failed", search.JobFilter(after=BORN + 35))
    assert (counted.matching, counted.total, counted.is_exact) == (5, 5, True)


async def test_failures_are_grouped_in_parts(
    connection: Connection, keys: Keys, clock: FakeClock, jobs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says which jobs its groups are of, and leads to the older ones."""
    monkeypatch.setattr("flowstate_daemon.operations.failures.EXAMINE_BATCH", BATCH)
    async with serve_dashboard(build_operator(connection, keys, clock), clock) as site:
        await site.log_in()
        path, counted = "failures", 0
        for _ in range(COUNT):
            _, html = await site.get(path)
            counted += sum(int(count) for count in re.findall(r'<p class="count">(\d+)</p>', html))
            match = re.search(r'href="/dashboard/(failures\?position=\d+)">Group older ones', html)
            if match is None:
                break
            path = match[1]
        assert (counted, path != "failures") == (COUNT, True)

"""Every page of the operators in a real browser: both themes, both languages, wide and narrow, with hostile data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, get_args
from urllib.parse import quote

import asyncpg
import msgspec
import pytest
from playwright.async_api import Browser, Page, expect
from redis.asyncio import Redis

from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.dev.sample_data import SAMPLE_USERS
from flowstate_daemon.dev.seed import add_users
from flowstate_daemon.mail.message import ProviderEvent
from flowstate_daemon.mail.policy import Decision
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import ManualRuns, RunRequest
from flowstate_daemon.web.session import SESSION_S
from tests.compat import packages
from tests.integration.queue.queue_fixture import QueueFixture
from tests.integration.web.test_dashboard import Site, serve_dashboard
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome
from tests.support.operator_api import OPERATE, build_operator, build_recipients
from tests.support.operator_browser import (
    PROGRAM,
    WIDTH_OVERFLOW,
    Scheme,
    find_barriers,
    log_in,
    open_browser,
    open_page,
)
from tests.support.sample_history import DOMAIN, SAMPLE_CODE, UNSUBSCRIBED, Stores, write_history

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

PAGES = (
    *("", "?span=day", "?span=week", "emails", "emails?state=failed", "emails?state=delayed", "emails?state=wait"),
    *("emails/preview?state=failed&action=retry", "actions", "jobs/f1", "jobs/f-code", "jobs/gone"),
    *("recipients", f"recipients?address={UNSUBSCRIBED}", f"recipients?address=dennis.r@{DOMAIN}"),
    *("recipients?address=nonsense", "schedules", "schedules/task-reminder/dry-run", "failures", "provider", "system"),
)
MARK = "hostile"
HOSTILE = (
    f'<script>window.{MARK}=1</script><img src=x onerror="window.{MARK}=1">"\'><svg onload=window.{MARK}=1>{{{{7*7}}}}'
)
REVERSED = "\u202egpj.exe"
LONG = "w" * 400
# What people see, and what a screen reader says.
SHOWN = """document.title + document.body.innerText
    + [...document.querySelectorAll("[aria-label], [title]")].map(e => e.ariaLabel + e.title).join("")"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    packages.install()  # axe-core
    async with open_browser() as browser:
        yield browser


@pytest.fixture
async def schedules(database_url: str, pool: asyncpg.Pool, clock: FakeClock) -> ManualRuns:
    """The schedules with the sample users, and one run in the past."""
    await add_users(database_url, clock.now(), SAMPLE_USERS)
    runs = build_manual_runs(load({"FLOWSTATE_DATABASE_URL": database_url}), pool, clock)
    await runs.run(RunRequest("overdue-summary", clock.now()))
    return runs


@pytest.fixture
async def site(
    pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock, schedules: ManualRuns
) -> AsyncIterator[Site]:
    operator = build_operator(connection, keys, clock, build_recipients(pool, clock), schedules)
    async with serve_dashboard(operator, clock) as site:
        yield site


@pytest.fixture
async def history(pool: asyncpg.Pool, redis: Redis, keys: Keys, clock: FakeClock) -> None:
    await write_history(Stores(pool, redis, keys), clock.now(), emails=140)


async def visit(page: Page, path: str) -> None:
    await page.goto(f"/dashboard/{path}", wait_until="load")
    assert await page.locator("h1").count() == 1


@pytest.mark.timeout(300)  # axe-core on 21 pages
@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.parametrize("scheme", get_args(Scheme))
async def test_every_page_is_accessible_and_fits(
    site: Site, history: None, browser: Browser, scheme: Scheme, language: str
) -> None:
    """No barrier that axe-core calls serious, nothing wider than a phone, no violated policy, no outside request."""
    async with open_page(browser, site.url, scheme=scheme, language=language) as (page, watched):
        await page.goto("/")
        assert await find_barriers(page) == []
        await page.set_viewport_size({"width": 360, "height": 720})
        assert await page.evaluate(WIDTH_OVERFLOW) == 0
        await log_in(page, OPERATE)
        for path in PAGES:
            await visit(page, path)
            assert await page.evaluate("document.documentElement.lang") == language
            assert await page.evaluate(WIDTH_OVERFLOW) == 0, path
            await page.set_viewport_size({"width": 1280, "height": 900})
            assert await page.evaluate(WIDTH_OVERFLOW) == 0, path
            assert await find_barriers(page) == [], path
            await page.set_viewport_size({"width": 360, "height": 720})
        watched.complaints = [text for text in watched.complaints if "404" not in text]  # the job that is gone


async def test_no_page_shows_a_code(site: Site, history: None, browser: Browser) -> None:
    """Neither as text nor inside the frame, also after addresses are revealed."""
    async with open_page(browser, site.url) as (page, _):
        await log_in(page, OPERATE)
        for action in ("Show addresses", "Mask addresses"):
            for path in ("jobs/f-code", "emails?state=failed", "failures"):
                await visit(page, path)
                for frame in page.frames:
                    assert SAMPLE_CODE not in await frame.content()
            await page.get_by_role("button", name=action).click()
            await expect(page.get_by_role("button", name=action)).to_have_count(0)


@pytest.fixture
async def hostile_data(
    pool: asyncpg.Pool, redis: Redis, keys: Keys, clock: FakeClock, database_url: str
) -> tuple[str, str]:
    """Texts of an attacker in every place that a page prints; returns the ids of a job and of an email."""
    now_ms = clock.now_ms()
    queue, job_id = QueueFixture(redis, keys), f"{HOSTILE}{REVERSED}{LONG}"
    context = {"name": HOSTILE + REVERSED, HOSTILE: HOSTILE, "otpCode": HOSTILE}
    data = msgspec.json.encode({"type": HOSTILE, "to": f'"{HOSTILE}"@{DOMAIN}', "context": context}).decode()
    for number, (name, state) in enumerate([(HOSTILE, "failed"), ("welcome", "failed"), (LONG, "delayed")]):
        await queue.put(
            job_id if not number else f"h{number}",
            state,
            at=now_ms + number,
            name=name,
            data=data,
            failedReason=HOSTILE + REVERSED + LONG,
            finishedOn=now_ms,
            opts=HOSTILE,
            stacktrace=HOSTILE,
        )
    await redis.rpush(keys.logs("h1"), HOSTILE, LONG)
    entry = outcome(
        key=f"{keys.base}{HOSTILE}:1:1",
        job_id=HOSTILE,
        kind=HOSTILE[:90],
        to=f"ada@{DOMAIN}",
        outcome="failed",
        reason=HOSTILE + LONG,
        provider_id="re-h",
        decisions=(Decision(HOSTILE[:90], HOSTILE[:90], HOSTILE),),
        at=now_ms,
    )
    ledger = Ledger(pool, clock)
    await ledger.write([entry])
    await ledger.record_events([ProviderEvent("h", "re-h", HOSTILE[:90], now_ms, f"ada@{DOMAIN}", HOSTILE, None)])
    lists = Suppressions(pool, clock)
    await lists.add(f"ada@{DOMAIN}", "manual", HOSTILE, actor=HOSTILE)
    await lists.unsubscribe(f"ada@{DOMAIN}", "task-reminder")
    return job_id, f"{keys.base}{HOSTILE}:1"


@pytest.mark.parametrize("reveals", [False, True])
async def test_hostile_texts_are_texts(
    site: Site, hostile_data: tuple[str, str], browser: Browser, reveals: bool
) -> None:
    """Nothing of them runs, loads, widens the page, or turns the direction of what follows."""
    job_id, mail = hostile_data
    paths = [
        *("", "emails", "emails?state=failed", "emails?state=delayed", "failures", "provider", "system"),
        *(f"emails?state=failed&reason={quote(HOSTILE)}", f"emails?recipient={quote(HOSTILE)}"),
        *(f"emails/preview?state=failed&action=retry&reason={quote(HOSTILE)}", f"jobs/{quote(job_id, safe='')}"),
        *("jobs/h1", f"mail?key={quote(mail, safe='')}", f"recipients?address=ada@{DOMAIN}"),
        *(f"recipients?address={quote(HOSTILE)}", f"schedules/{quote(HOSTILE, safe='')}/dry-run"),
        *("schedules/task-reminder/dry-run", f"schedules/task-reminder/dry-run?address={quote(HOSTILE)}"),
        f"login?next={quote(HOSTILE)}",
    ]
    async with open_page(browser, site.url, width=360) as (page, watched):
        await log_in(page, OPERATE)
        if reveals:
            await page.get_by_role("button", name="Show addresses").click()
            await page.wait_for_url("**/dashboard/")
        for path in paths:
            await page.goto(f"/dashboard/{path}", wait_until="load")
            for summary in await page.locator("summary").all():
                await summary.click()
            for frame in page.frames:
                assert await frame.evaluate(f"window.{MARK} === undefined"), path
                assert await frame.locator("img[src=x], svg[onload]").count() == 0, path
            assert REVERSED[0] not in await page.evaluate(SHOWN), path
            assert await page.locator("h1").count() == 1, path
            assert "49" not in await page.locator("h1").inner_text(), path
            assert await page.evaluate(WIDTH_OVERFLOW) == 0, path
        watched.complaints = [text for text in watched.complaints if "Failed to load resource" not in text]


async def test_session_that_ends_leads_to_the_login_and_back(site: Site, browser: Browser, clock: FakeClock) -> None:
    """To the page that was wanted; also from a form, and by itself from the live part of the first page."""
    async with open_page(browser, site.url) as (page, watched):
        await page.goto("/dashboard/emails?state=failed")
        await page.wait_for_url("**/login?next=*")
        await page.locator("#token").fill(OPERATE)
        await page.locator("#token").press("Enter")
        await page.wait_for_url("**/dashboard/emails?state=failed")
        clock.advance(SESSION_S + 1)
        await page.get_by_role("button", name="Log out").click()
        await expect(page.locator("main")).to_contain_text("Your session has ended, and nothing was done.")
        await page.locator("#token").fill(OPERATE)
        await page.locator("#token").press("Enter")
        await page.wait_for_url("**/dashboard/")
        await expect(page.locator("#live-waiting")).to_be_visible()
        clock.advance(SESSION_S + 1)
        await page.wait_for_url("**/login?next=*")
        watched.complaints = [text for text in watched.complaints if "401" not in text]  # the form without a session


async def test_page_without_any_data(connection: Connection, keys: Keys, clock: FakeClock, browser: Browser) -> None:
    """A new daemon without Postgres: each page says what there is not, and how to get it."""
    async with (
        serve_dashboard(build_operator(connection, keys, clock, None), clock) as site,
        open_page(browser, site.url, width=360) as (page, _),
    ):
        await log_in(page, OPERATE)
        for path, text in {
            "emails": "Without Postgres there is no ledger",
            "emails?state=failed": "Nothing matches.",
            "recipients?address=ada@example.org": "Without Postgres there is no ledger",
            "schedules": "This daemon has no schedules",
            "failures": "No job has failed.",
            "provider": "Without Postgres there is no ledger",
            "system": "Not configured: set DATABASE_URL",
            "actions": "No action has been started",
        }.items():
            await visit(page, path)
            await expect(page.locator("main")).to_contain_text(text)
            assert await page.evaluate(WIDTH_OVERFLOW) == 0, path
            assert await find_barriers(page) == [], path


async def test_pages_while_redis_and_postgres_are_away(
    keys: Keys, clock: FakeClock, unreachable_pool: asyncpg.Pool, browser: Browser
) -> None:
    """Each page opens, is accessible, says what it cannot show, and never says that all is well."""
    connection = Connection(f"redis://127.0.0.1:{free_port()}", client_name=keys.client_name, block_timeout_s=1.0)
    try:
        operator: Operator = build_operator(connection, keys, clock, build_recipients(unreachable_pool, clock))
        async with serve_dashboard(operator, clock) as site, open_page(browser, site.url, width=360) as (page, _):
            await log_in(page, OPERATE)
            await expect(page.locator(".health h2")).to_contain_text("Unknown: Redis does not respond")
            for path in ("emails", "emails?state=failed", f"recipients?address=ada@{DOMAIN}", "failures", "provider"):
                await visit(page, path)
                await expect(page.locator(".notice.bad").first).to_contain_text("This cannot be shown")
                assert await page.locator(".good").count() == 0, path
                assert await find_barriers(page) == [], path
                assert await page.evaluate(WIDTH_OVERFLOW) == 0, path
            await visit(page, "system")
            assert await page.locator(".notice.bad").count() >= 3
    finally:
        await connection.close()


async def test_many_zones_and_rows_fit(
    site: Site, pool: asyncpg.Pool, clock: FakeClock, browser: Browser, database_url: str
) -> None:
    """A calendar of many zones is cut with a button for the rest; a full page of emails fits a phone."""
    entries: list[Any] = [
        outcome(key=f"k{number}:1:1", job_id=f"j{number}", to=f"{'long.name.' * 5}{number}@{'sub.' * 9}example.org")
        for number in range(60)
    ]
    await Ledger(pool, clock).write(entries)
    async with open_page(browser, site.url, width=360) as (page, _):
        await log_in(page, OPERATE)
        await page.get_by_role("button", name="Show addresses").click()
        await visit(page, "emails")
        await expect(page.locator("tbody tr")).to_have_count(50)
        assert await page.evaluate(WIDTH_OVERFLOW) == 0
        await page.locator("a.next").click()
        await expect(page.locator("tbody tr")).to_have_count(10)

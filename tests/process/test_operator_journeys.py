"""An operator at work in Chromium: a running daemon, real stores, a failing and recovering provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from playwright.async_api import Browser, Page, expect

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.dev.sample_data import DUE_TASKS, SampleUser, preferences
from flowstate_daemon.dev.seed import add_users
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.job import NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.operator_browser import PROGRAM, open_browser, open_page
from tests.support.operator_browser import log_in as log_in_to
from tests.support.resend_api import Answer
from tests.support.schedule_settings import nothing_comes_due
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

OPERATE = "an-operators-token-of-forty-characters-0"
ADA, GRACE, CARLA = "ada@mail.dev", "grace@mail.dev", "carla@flowstate.example"
ANSWER_WITHIN_S = 60
START_S = 60  # a browser starts beside the daemon
INVALID = Answer(422, {"name": "validation_error", "message": "Invalid `to` field: mailbox unavailable"})


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A running daemon with its provider, and the parts of the stores that tests look at."""

    daemon: Daemon
    provider: FakeResend
    connection: Connection
    keys: Keys
    pool: asyncpg.Pool
    database_url: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.daemon.port}"

    async def enqueue(self, *recipients: str) -> None:
        jobs = [
            NewJob("welcome", {"type": "welcome", "to": to, "context": {"name": "Ada"}}, attempts=1)
            for to in recipients
        ]
        await BullQueue(self.connection, self.keys, Clock(), token="test").add_many(jobs)

    async def count(self, state: str) -> int:
        snapshot = await Inspector(self.connection, self.keys).snapshot()
        return int(getattr(snapshot, state))

    async def fail(self, *recipients: str) -> None:
        """Enqueue emails that the provider refuses, and wait until they have failed. Then it accepts again."""
        self.provider.script(INVALID, times=None)
        await self.enqueue(*recipients)
        await eventually(lambda: self.count("failed"), "the emails have failed", equals=len(recipients))
        self.provider.unscript()

    def sent_to(self) -> set[str]:
        return {mail.to[0] for mail in self.provider.accepted}


@pytest.fixture
async def running(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, database_url: str
) -> AsyncIterator[RunningDaemon]:
    settings = {
        "DATABASE_URL": database_url,
        "FLOWSTATE_HTTP_API_TOKEN": OPERATE,
        "FLOWSTATE_SCHEDULE_DEFAULT_TIMEZONE": "UTC",
        **nothing_comes_due(),
    }
    async with make_daemon(**settings) as daemon, open_pool(clean_dsn(database_url)) as pool:
        await daemon.ready(within_s=START_S)
        yield RunningDaemon(daemon, provider, connection, keys, pool, database_url)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


@asynccontextmanager
async def logged_in(browser: Browser, running: RunningDaemon) -> AsyncIterator[Page]:
    """A page after the login; the block ends by checking the console and the requests."""
    async with open_page(browser, running.url) as (page, _):
        page.on("dialog", lambda dialog: dialog.accept())
        await log_in_to(page, OPERATE)
        yield page


async def test_failed_email_is_found_explained_retried_and_sent(browser: Browser, running: RunningDaemon) -> None:
    """By its recipient; the page says why it failed, and after the retry that it was sent."""
    await running.fail(ADA, GRACE)
    async with logged_in(browser, running) as page:
        await page.get_by_role("link", name="Emails", exact=True).click()
        await page.get_by_label("State").select_option("failed")
        await page.get_by_label("Recipient").fill(ADA)
        await page.get_by_role("button", name="Filter").click()
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(1)
        await rows.locator("a").first.click()
        await expect(page.locator("dd.reason")).to_contain_text("mailbox unavailable")
        await expect(page.frame_locator("iframe.email").get_by_role("heading", name="Welcome, Ada!")).to_be_visible()
        await page.get_by_role("button", name="Retry").click()
        await eventually(lambda: ADA in running.sent_to(), "sent after the retry")
        assert GRACE not in running.sent_to()

        async def is_shown_as_sent() -> bool:
            await page.goto(f"/dashboard/emails?state=sent&recipient={ADA}")
            return await page.locator("tbody .state.good").count() == 1

        await eventually(is_shown_as_sent, "the ledger has the email")
        await page.locator("tbody a").first.click()
        await expect(page.locator(".timeline > li")).to_have_count(2)
        await expect(page.locator(".timeline > li").last).to_contain_text("sent")


async def test_group_of_failures_is_retried(browser: Browser, running: RunningDaemon) -> None:
    """From the group over the preview to the action, whose end the page shows by itself."""
    people = [f"person{number}@mail.dev" for number in range(5)]
    await running.fail(*people)
    async with logged_in(browser, running) as page:
        await page.get_by_role("link", name="Failures").click()
        await expect(page.locator(".group")).to_have_count(1)
        await expect(page.locator(".group .count")).to_have_text("5")
        await page.get_by_role("link", name="Retry all of them").click()
        await expect(page.locator(".lead")).to_have_text("Matching jobs (failed): 5.")
        await page.get_by_role("button", name="Retry").click()
        await expect(page.locator("#actions tbody tr")).to_contain_text("done")
        await eventually(lambda: running.sent_to() == set(people), "all sent")
        await page.get_by_role("link", name="Failures").click()
        await expect(page.get_by_text("No job has failed.")).to_be_visible()


async def test_queue_is_paused_and_resumed(browser: Browser, running: RunningDaemon) -> None:
    """While it is paused the page does not call the daemon healthy, and nothing is sent; live, without a reload."""
    async with logged_in(browser, running) as page:
        await expect(page.locator(".health h2")).to_contain_text("Healthy")
        await page.get_by_role("button", name="Pause the queue").click()
        await expect(page.locator(".health h2")).to_contain_text("Paused")
        await running.enqueue(ADA)
        await expect(page.locator("#live-waiting")).to_have_text("1")
        assert running.sent_to() == set()
        await page.get_by_role("button", name="Resume the queue").click()
        await expect(page.locator(".health h2")).to_contain_text("Healthy")
        await eventually(lambda: running.sent_to() == {ADA}, "sent after the resume")
        await expect(page.locator("#live-waiting")).to_have_text("0")


async def test_why_a_customer_got_no_reminder_this_morning(browser: Browser, running: RunningDaemon) -> None:
    """A new operator finds the reason, the remedy, and sees that it works, in less than a minute."""
    clock = Clock()
    zone = preferences("UTC", "en")
    await add_users(running.database_url, clock.now(), [SampleUser("carla", "Carla", zone, "UTC", tasks=DUE_TASKS)])
    await Suppressions(running.pool, clock).unsubscribe(CARLA, "task-reminder")
    async with logged_in(browser, running) as page:
        started = clock.monotonic()
        await page.get_by_role("link", name="Recipients").click()
        await expect(page.get_by_label("Email address")).to_be_focused()  # only then do typed letters reach it
        await page.keyboard.type(CARLA)
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("Unsubscribed from task-reminder.")).to_be_visible()
        await page.get_by_role("link", name="task-reminder").click()
        await expect(page.locator(".list")).to_contain_text("the recipient has unsubscribed from this kind of email")
        assert clock.monotonic() - started < ANSWER_WITHIN_S
        await page.go_back()
        await page.get_by_role("button", name="Undo the unsubscribe").click()
        await expect(page.get_by_text("Unsubscribed from task-reminder.")).to_have_count(0)
        await page.get_by_role("link", name="task-reminder").click()
        await expect(page.locator(".lead")).to_have_text("Would be sent: 1 of 1.")
        await page.locator("summary").click()
        frame = page.frame_locator("iframe.email")
        await expect(frame.get_by_text("Water the plants").first).to_be_visible()
        assert running.sent_to() == set()  # a dry run sends nothing


async def test_schedule_is_run_from_the_page(browser: Browser, running: RunningDaemon) -> None:
    """After the dry run the run sends the same email, and the page shows what became of it by kind and zone."""
    clock = Clock()
    users = [SampleUser("carla", "Carla", preferences("UTC", "en"), "UTC", tasks=DUE_TASKS)]
    await add_users(running.database_url, clock.now(), users)
    async with logged_in(browser, running) as page:
        await page.get_by_role("link", name="Schedules").click()
        card = page.locator("section.card", has_text="task-reminder")
        await card.get_by_role("button", name="Dry run").click()
        await expect(page.locator(".lead")).to_have_text("Would be sent: 1 of 1.")
        await page.get_by_role("link", name="Schedules").click()
        await card.get_by_role("button", name="Run now").click()
        await eventually(lambda: CARLA in running.sent_to(), "the reminder is sent")

        async def is_shown() -> bool:
            await page.goto("/dashboard/schedules")
            return await page.locator("tbody tr", has_text="task-reminder").get_by_text("1 sent").count() == 1

        await eventually(is_shown, "the outcome is on the page")


async def test_page_that_loses_the_daemon_says_so(browser: Browser, running: RunningDaemon) -> None:
    """It must not go on saying that all is well."""
    async with open_page(browser, running.url) as (page, watched):
        await log_in_to(page, OPERATE)
        await expect(page.locator("#live-waiting")).to_be_visible()
        await expect(page.locator("#connection-lost")).to_be_hidden()
        await running.daemon.kill()
        await expect(page.locator("#connection-lost")).to_be_visible()
        assert watched.complaints
        watched.complaints.clear()  # of the connection that is refused


async def test_whole_journey_by_keyboard(browser: Browser, running: RunningDaemon) -> None:
    """Log in, skip to the content, find a failed email, retry it, log out; the focus is always visible."""
    await running.fail(ADA)
    async with open_page(browser, running.url) as (page, _):
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto("/")
        await expect(page.locator("#token")).to_be_focused()
        await page.keyboard.type(OPERATE)
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/dashboard/")
        await page.keyboard.press("Tab")
        assert await focused(page) == "Skip to content"
        await tab_to(page, "Failures")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/failures")
        await tab_to(page, "Show the jobs")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/emails?**")
        await tab_to(page, "1")  # the id of the job
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/jobs/**")
        await tab_to(page, "Retry")
        async with page.expect_navigation():
            await page.keyboard.press("Enter")
        await eventually(lambda: ADA in running.sent_to(), "sent after the retry")
        await page.goto("/dashboard/")
        await tab_to(page, "Log out")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/login")


async def test_focus_survives_live_updates(browser: Browser, running: RunningDaemon) -> None:
    """Somebody who has reached a link of the live part with the keyboard keeps it when the part is replaced."""
    async with logged_in(browser, running) as page:
        await page.locator("#live-failed").focus()
        await running.fail(ADA)
        await expect(page.locator("#live-failed")).to_have_text("1")
        assert await page.evaluate("document.activeElement.id") == "live-failed"


async def focused(page: Page) -> str:
    """The text of the element that has the focus; "" if its outline cannot be seen."""
    return str(
        await page.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle === 'none' ? ''"
            " : document.activeElement.textContent.trim()"
        )
    )


async def tab_to(page: Page, text: str) -> None:
    """Press Tab until the element with this text has the focus."""
    seen = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        seen.append(await focused(page))
        if seen[-1] == text:
            return
    raise AssertionError(f"{text!r} is not reached with Tab: {seen}")

"""Which scheduled emails an address would not get, whatever their content: for the page about one recipient."""

from __future__ import annotations

import re
from html import unescape

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import ManualRuns
from tests.integration.web.test_dashboard import serve_dashboard
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.operator_api import build_operator, build_recipients
from tests.support.scheduler import SchedulerHarness

SCHEDULED = {"task-reminder", "overdue-summary", "focus-report"}
OFF = "the user has switched these emails off"
DELETED = "the account is deleted"
UNVERIFIED = "the user has not verified the address"


def manual_runs(harness: SchedulerHarness) -> ManualRuns:
    scheduler = harness.scheduler
    return ManualRuns(scheduler.schedules, scheduler.planning, scheduler.eligibility, lambda _: None, harness.clock)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("columns", "preferences", "refused"),
    [
        ({}, None, {}),
        ({}, {"notifications": {"taskReminders": False}}, {"task-reminder": OFF}),
        ({}, {"notifications": False}, dict.fromkeys(SCHEDULED, OFF)),
        ({"isEmailVerified": False}, None, dict.fromkeys(SCHEDULED, UNVERIFIED)),
        ({"deletedAt": stored(2026, 1, 2)}, None, dict.fromkeys(SCHEDULED, DELETED)),
    ],
)
async def test_refusals_are_those_of_the_user(
    app: AppTables, harness: SchedulerHarness, columns: dict[str, object], preferences: object, refused: dict[str, str]
) -> None:
    """The reasons are those with which the schedules skip this user."""
    await app.user("ada", preferences, **columns)
    assert await manual_runs(harness).refusals("ada@example.org") == refused


@pytest.mark.parametrize(
    ("stored_as", "asked"),
    [
        ("ada@example.org", "Ada@Example.ORG"),
        ("Ada@example.org", "Ada@example.org"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
    ],
)
async def test_refusals_find_the_user_in_likely_spellings(
    app: AppTables, harness: SchedulerHarness, stored_as: str, asked: str
) -> None:
    """As typed, in lower case, and with the domain in the letters of its language."""
    await app.user("ada", email=stored_as)
    assert await manual_runs(harness).refusals(asked) == {}


async def test_refusals_name_an_address_without_account(app: AppTables, harness: SchedulerHarness) -> None:
    """Nobody gets a scheduled email without an account; of two accounts one that may get it is enough."""
    manual = manual_runs(harness)
    refused = await manual.refusals("nobody@example.org")
    assert set(refused) == SCHEDULED
    assert all("no account" in reason for reason in refused.values())
    await app.user("old", email="Ada@example.org", deletedAt=stored(2026, 1, 2))
    assert set((await manual.refusals("Ada@example.org")).values()) == {DELETED}
    await app.user("new", email="ada@example.org")
    assert await manual.refusals("Ada@example.org") == {}


async def test_recipient_page_does_not_promise_what_the_schedules_refuse(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """A user who has switched reminders off is not shown as someone who gets all kinds of email."""
    await app.user("ada", {"notifications": {"taskReminders": False}})
    await app.user("ben")
    operator = build_operator(connection, keys, clock, build_recipients(harness.pool, clock), manual_runs(harness))
    async with serve_dashboard(operator, clock) as site:
        await site.log_in()
        html = unescape((await site.get("recipients?address=ada@example.org"))[1])
        assert f"no</span> task-reminder: {OFF}" in html
        assert not re.search(r"yes</span>[^<]*task-reminder", html)
        assert "gets all kinds of email" not in html
        assert "gets all kinds of email" in unescape((await site.get("recipients?address=ben@example.org"))[1])

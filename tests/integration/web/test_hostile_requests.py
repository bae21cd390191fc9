"""The pages against requests that no browser makes: no internal error, refusals are counted, logs stay short."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import product
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.queue.inspector import Inspector, Snapshot
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.integration.web.test_dashboard import Site, exposition, serve_dashboard
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome
from tests.support.operator_api import build_operator, build_recipients
from tests.support.waiting import eventually

HOSTILE = (
    "", " ", "%00", "%ff%fe", "%ED%A0%80", quote("é" * 300), "a" * 7_000, "-1", "1e9", "9" * 9, "9" * 400,
    "999999w", "99999w", "0s", "%27%22%3Cscript%3E", "..%2f..%2fetc%2fpasswd", "*" * 200, "0001-01-01T00:00",
    "9999-12-31T23:59:59-23:59", "2026-03-02T25:00", "NaN", "%5B%5D", "%7B%7D", "%25s%25n", "%0d%0aX-Header:1",
)  # fmt: skip
QUERIES = {
    "": ("span",),
    "emails": (*("state=failed&" + name for name in ("kind", "recipient", "reason", "newer_than", "older_than")),
               "state", "kind", "recipient", "reason", "newer_than", "older_than", "at",
               "at=2026-03-02T08:00&after_key", "at=2026-03-02T08:00&after_outcome", "state=failed&position"),
    "emails/preview": ("action", "state", "action=retry&state=failed&newer_than", "action=retry&state=failed&reason",
                       "action=retry&state=failed&older_than", "action=retry&state=failed&kind"),
    "recipients": ("address",),
    "failures": ("position",),
    "mail": ("key",),
    "login": ("next",),
    "schedules/task-reminder/dry-run": ("at", "force"),
    "schedules/task-reminder/dry-run/html": ("user", "at"),
}  # fmt: skip
PATHS = ("jobs/{}", "jobs/{}/html", "schedules/{}/dry-run", "login/{}", "static/{}", "outbox/{}", "{}")
FORMS: dict[str, tuple[str, ...]] = {
    "emails/selected": ("action", "next", "job:x"),
    "actions": ("action", "state", "kind", "reason", "newer_than", "maybe_sent"),
    "actions/x/stop": ("y",),
    "queue": ("action", "next"),
    "recipients": ("address", "action", "kind", "note"),
    "schedules/task-reminder/run": ("at", "force"),
    "language": ("language", "next"),
    "reveal": ("action", "next"),
}
VALID = {
    "emails/selected": {"action": "retry", "job:f1": "1"},
    "actions": {"action": "promote", "state": "delayed"},
    "queue": {"action": "resume"},
    "recipients": {"address": "ada@example.org", "action": "suppress"},
    "schedules/task-reminder/run": {"at": "2026-03-02T08:00"},
}


@pytest.fixture
async def site(
    pool: asyncpg.Pool, database_url: str, connection: Connection, keys: Keys, clock: FakeClock, redis: Redis
) -> AsyncIterator[Site]:
    """All pages, with schedules, some jobs and emails; the operator is logged in."""
    config = load({"DATABASE_URL": database_url, "FRONTEND_URL": "https://flowstate.example"})
    recipients, schedules = build_recipients(pool, clock), build_manual_runs(config, pool, clock)
    await Ledger(pool, clock).write([outcome(number) for number in range(5)])
    stage = QueueFixture(redis, keys)
    for number in range(3):
        await stage.put(f"f{number}", "failed", at=BORN + number, failedReason="422", finishedOn=BORN + number)
    async with serve_dashboard(build_operator(connection, keys, clock, recipients, schedules), clock) as site:
        await site.log_in()
        yield site


async def raw_status(site: Site, head: str, body: str = "") -> int:
    """The status of a request that is sent as it is: a client library would correct it."""
    address = site.client._base_url
    assert address is not None
    reader, writer = await asyncio.open_connection(address.host, address.port)
    cookies = "; ".join(f"{cookie.key}={cookie.value}" for cookie in site.client.cookie_jar)
    lines = (
        f"{head} HTTP/1.1", f"Host: {address.host}", f"Cookie: {cookies}", "Connection: close",
        "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body.encode())}", "", body,
    )  # fmt: skip
    writer.write("\r\n".join(lines).encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("path", QUERIES)
async def test_no_query_breaks_a_page(site: Site, path: str) -> None:
    """Whatever the value of a parameter, the page opens, or says what is wrong."""
    for name, value in product(QUERIES[path], HOSTILE):
        status = await raw_status(site, f"GET /dashboard/{path}?{name}={value}")
        assert status in (200, 303, 400, 404), f"{path}?{name}={value[:60]}"


async def test_no_path_breaks_a_page(site: Site) -> None:
    for path, value in product(PATHS, HOSTILE):
        status = await raw_status(site, f"GET /dashboard/{path.format(value)}")
        assert status in (200, 303, 400, 403, 404), f"{path.format(value)[:80]}"


@pytest.mark.parametrize("path", FORMS)
async def test_no_form_breaks_a_page(site: Site, path: str) -> None:
    """Fields that no form has, and fields without sense beside those that have it."""
    _, html = await site.get("")
    csrf = re.findall(r'name="csrf" value="([0-9a-f]+)"', html)[0]
    for name, value in product(FORMS[path], HOSTILE):
        fields = {name_: quote(text) for name_, text in VALID.get(path, {}).items()} | {name: value}
        body = "&".join(f"{name_}={text}" for name_, text in [("csrf", csrf), *fields.items()])
        status = await raw_status(site, f"POST /dashboard/{path}", body)
        assert status in (200, 303, 400), f"{path}: {name}={value[:60]}"
    await site.operator.actions.wait_all()


async def test_forms_without_a_session_are_refused_and_counted(site: Site) -> None:
    """401 with the login, not a redirect: what was posted is lost, and a program must not take it for done."""
    site.client.cookie_jar.clear()
    for path in FORMS:
        status, _, html = await site.post(path, {"csrf": "0" * 64, **VALID.get(path, {})})
        assert (status, 'name="token"' in html) == (401, True)
    assert f'http_denied_total{{reason="session"}} {len(FORMS)}.0' in exposition(site.metrics)


@pytest.mark.parametrize("kind", ["host", "csrf"])
async def test_refused_requests_do_not_fill_the_log(site: Site, kind: str) -> None:
    """Each is counted; the log has one line a minute."""
    with capture_logs() as events:
        for _ in range(30):
            if kind == "host":
                assert (await site.get("", headers={"Host": "evil.example"}))[0] == 403
            else:
                assert (await site.post("queue", {"action": "pause", "csrf": "0"}))[0] == 403
    assert len([event for event in events if event["event"] == "page_denied"]) == 1
    assert f'http_denied_total{{reason="{kind}"}} 30.0' in exposition(site.metrics)


class CountingInspector(Inspector):
    """Counts how often the queue is read."""

    reads = 0

    async def snapshot(self) -> Snapshot:
        self.reads += 1
        return await super().snapshot()


async def test_viewers_share_what_the_live_part_costs(
    site: Site, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Ten viewers cause one read in an interval, also in two languages, and each sees its own."""
    site.operator.inspector = inspector = CountingInspector(connection, keys)

    async def first_event(language: str) -> str:
        headers = {"Accept-Language": language}
        async with site.client.get("/dashboard/now/events", headers=headers) as response:
            return (await response.content.readuntil(b"\n\n")).decode()

    events = await asyncio.gather(*(first_event(("en", "fr")[number % 2]) for number in range(10)))
    assert inspector.reads == 1
    assert len(set(events)) == 2
    assert "Waiting" in events[0]
    assert "En attente" in events[1]
    clock.advance(3)
    await first_event("en")
    assert inspector.reads == 2


async def test_viewers_beyond_the_limit_are_refused_until_one_leaves(site: Site) -> None:
    """They keep the page without its live part; what a viewer used is free when it leaves."""
    opened = [await site.client.get("/dashboard/now/events") for _ in range(20)]
    assert {response.status for response in opened} == {200}
    assert (await site.get("now/events"))[0] == 503
    opened[0].close()

    async def is_admitted() -> bool:
        async with site.client.get("/dashboard/now/events") as response:
            return bool(response.status == 200)

    await eventually(is_admitted, "a place is free")
    for response in opened:
        response.close()


async def test_slow_viewer_holds_up_nobody(site: Site) -> None:
    """A viewer that never reads costs the others nothing."""
    address: Any = site.client._base_url
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=1)
    cookies = "; ".join(f"{cookie.key}={cookie.value}" for cookie in site.client.cookie_jar)
    writer.write(f"GET /dashboard/now/events HTTP/1.1\r\nHost: {address.host}\r\nCookie: {cookies}\r\n\r\n".encode())
    async with site.client.get("/dashboard/now/events") as response:
        assert b"event: now" in await response.content.readuntil(b"\n\n")
        assert b"event: now" in await response.content.readuntil(b"\n\n")
    assert not reader.at_eof()
    writer.close()

"""The operator's pages over a real socket and real stores: closed by default, masked, every action does its work."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import msgspec
import pytest
from aiohttp import ClientSession, CookieJar
from prometheus_client import generate_latest
from redis.asyncio import Redis
from yarl import URL

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.cli.database import record_reveal
from flowstate_daemon.database.ledger import Decision, Ledger
from flowstate_daemon.database.preferences import RecipientSettings
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.preferences import Preferences
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.operations.statistics import QUARTER_MS, MinuteStatistics, day_key
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.dashboard.app import Dashboard
from flowstate_daemon.web.dashboard.rendering import PageRenderer, load_texts
from flowstate_daemon.web.server import HttpServer
from flowstate_daemon.web.session import COOKIE, Sessions
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome
from tests.support.operator_api import OPERATE, READ, build_operator, build_recipients

CODE = "482913"
ADDRESS = "ada.lovelace@example.org"
PAGES = (
    "",
    "emails",
    "emails?state=failed",
    "emails?state=wait",
    "recipients",
    "schedules",
    "failures",
    "provider",
    "system",
    "actions",
)


class Site:
    """A client of the pages with the parts that the daemon would build."""

    def __init__(self, client: ClientSession, operator: Operator, sessions: Sessions, metrics: Metrics) -> None:
        self.client = client
        self.operator = operator
        self.sessions = sessions
        self.metrics = metrics

    @property
    def url(self) -> str:
        return str(self.client._base_url).rstrip("/")

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        async with self.client.get(f"/dashboard/{path}", allow_redirects=False, **options) as response:
            return response.status, await response.text()

    async def post(self, path: str, fields: dict[str, str], **options: Any) -> tuple[int, str, str]:
        async with self.client.post(f"/dashboard/{path}", data=fields, allow_redirects=False, **options) as response:
            return response.status, response.headers.get("Location", ""), await response.text()

    async def log_in(self, token: str = OPERATE) -> None:
        assert (await self.post("login", {"token": token}))[:2] == (303, "/dashboard/")

    async def act(self, path: str, **fields: str) -> tuple[int, str, str]:
        """Post a form with the token that the pages contain."""
        _, html = await self.get("")
        match = re.search(r'name="csrf" value="([0-9a-f]+)"', html)
        assert match, html
        return await self.post(path, {"csrf": match[1], **fields})


@pytest.fixture
async def site(pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock) -> AsyncIterator[Site]:
    operator = build_operator(connection, keys, clock, build_recipients(pool, clock))
    async with serve_dashboard(operator, clock) as site:
        yield site


@asynccontextmanager
async def serve_dashboard(operator: Operator, clock: FakeClock, outbox: Path | None = None) -> AsyncIterator[Site]:
    """The pages on a free port, and a client that keeps cookies."""
    metrics = Metrics(tuple(KINDS))
    sessions = Sessions([(READ, "read"), (OPERATE, "operate")], clock, secure=False)
    pages = PageRenderer(lambda: "FlowState", "outbox" if outbox else "production", lambda: KINDS)
    server = HttpServer(Dashboard(operator, sessions, pages, metrics, outbox).routes(), host="127.0.0.1", port=0)
    await server.open()
    url = f"http://127.0.0.1:{server.bound_port}"
    try:
        async with ClientSession(url, cookie_jar=CookieJar(unsafe=True)) as client:
            yield Site(client, operator, sessions, metrics)
    finally:
        await operator.actions.close()
        await server.close()


@pytest.fixture
async def jobs(redis: Redis, keys: Keys) -> QueueFixture:
    """Three failed jobs of two reasons, a waiting code and a delayed email."""
    stage = QueueFixture(redis, keys)
    for number in range(3):
        await stage.put(
            f"f{number}",
            "failed",
            at=BORN + number,
            name="welcome",
            data=f'{{"type": "welcome", "to": "{ADDRESS}", "context": {{"name": "<b>Ada</b>"}}}}',
            failedReason="422 Invalid `to` field" if number else f"timeout after {number + 3} s",
            finishedOn=BORN + number,
        )
    await stage.put(
        "code", "wait", name="otp", data=f'{{"type": "otp", "to": "{ADDRESS}", "context": {{"otpCode": "{CODE}"}}}}'
    )
    await stage.put("later", "delayed", name="welcome", data=f'{{"to": "{ADDRESS}", "context": {{}}}}')
    return stage


@pytest.mark.parametrize("path", PAGES)
async def test_pages_need_a_session(site: Site, path: str) -> None:
    """Without a session every page leads to the login, and shows nothing."""
    assert await site.get(path) == (303, "")


@pytest.mark.parametrize("token", ["", "x", READ[:-1], OPERATE + "x", "ü" * 40, "\x00"])
async def test_wrong_tokens_are_refused_and_counted(site: Site, token: str) -> None:
    status, _, html = await site.post("login", {"token": token})
    assert (status, "not one of the tokens" in html) == (403, True)
    assert COOKIE not in {cookie.key for cookie in site.client.cookie_jar}
    assert 'http_denied_total{reason="token"} 1.0' in exposition(site.metrics)


async def test_many_wrong_tokens_are_limited_and_the_right_one_is_not(site: Site) -> None:
    statuses = [(await site.post("login", {"token": "wrong"}))[0] for _ in range(60)]
    assert 429 in statuses
    await site.log_in()


async def test_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site) -> None:
    async with site.client.post("/dashboard/login", data={"token": OPERATE}, allow_redirects=False) as response:
        cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert OPERATE not in cookie


@pytest.mark.parametrize("change", ["truncated", "flipped", "expired", "other token"])
async def test_forged_and_expired_sessions(site: Site, clock: FakeClock, change: str) -> None:
    await site.log_in()
    [cookie] = [cookie for cookie in site.client.cookie_jar if cookie.key == COOKIE]
    value = {"truncated": cookie.value[:-3], "flipped": cookie.value[:10] + "AAAA" + cookie.value[14:]}.get(change)
    if change == "expired":
        clock.advance(12 * 3600 + 1)
    elif change == "other token":
        other = Sessions([("z" * 40, "operate")], clock, secure=False)
        assert other.find(_FakeRequest(cookie.value)) is None  # type: ignore[arg-type]
        return
    else:
        site.client.cookie_jar.update_cookies({COOKIE: value or ""}, URL(str(site.client._base_url)))
    assert (await site.get(""))[0] == 303


class _FakeRequest:
    def __init__(self, cookie: str) -> None:
        self.cookies = {COOKIE: cookie}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8080"])
@pytest.mark.parametrize("path", ["", "login", "static/dashboard.css", "login/x"])
async def test_other_host_names_are_refused(site: Site, host: str, path: str) -> None:
    """A page whose name was rebound to this address gets nothing, even with a session."""
    await site.log_in()
    status, html = await site.get(path, headers={"Host": host})
    assert status == 403
    assert "<" not in html


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("emails/selected", {"action": "remove", "job:f1": "1"}),
        ("actions", {"action": "remove", "state": "failed"}),
        ("queue", {"action": "pause"}),
        ("provider/retry", {}),
        ("recipients", {"action": "suppress", "address": ADDRESS}),
        ("reveal", {"action": "reveal"}),
        ("logout", {}),
    ],
)
async def test_forms_need_the_token_of_the_session_and_the_rights(
    site: Site, jobs: QueueFixture, path: str, fields: dict[str, str]
) -> None:
    """Neither a forged form nor a reader changes anything."""
    await jobs.snapshot()
    await site.log_in()
    for csrf in ("", "0" * 64, "ü"):
        assert (await site.post(path, {**fields, "csrf": csrf}))[0] == 403
    assert await jobs.diff() == {}
    if path != "logout":
        await site.log_in(READ)
        assert (await site.act(path, **fields))[0] == 403
        assert await jobs.diff() == {}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_forms_of_other_sites_are_refused(site: Site, jobs: QueueFixture, origin: str) -> None:
    """Also with the right token, on every form, the login included; each is counted."""
    await jobs.snapshot()
    headers = {"Origin": origin}
    assert (await site.post("login", {"token": OPERATE}, headers=headers))[0] == 403
    assert (await site.get(""))[0] == 303
    await site.log_in()
    csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', (await site.get(""))[1])
    assert csrf
    for path in ("queue", "emails/selected", "reveal", "logout"):
        fields = {"csrf": csrf[1], "action": "pause", "job:f1": "1"}
        assert (await site.post(path, fields, headers=headers))[0] == 403
    assert await jobs.diff() == {}
    assert 'http_denied_total{reason="origin"} 5.0' in exposition(site.metrics)
    assert (await site.act("queue", action="pause"))[0] == 303


async def test_live_part_ends_with_the_session(site: Site, clock: FakeClock) -> None:
    """The page learns that it must lead to the login; without a session nothing else is sent."""
    await site.log_in()
    async with site.client.get("/dashboard/now/events", headers={"Accept": "text/event-stream"}) as response:
        assert b"event: now" in await response.content.readuntil(b"\n\n")
        clock.advance(12 * 3600 + 1)
        assert (await response.content.read()).endswith(b"event: expired\ndata: \n\n")
    status, text = await site.get("now/events", headers={"Accept": "text/event-stream"})
    assert (status, text) == (200, "event: expired\ndata: \n\n")


@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.parametrize(
    "path", [*PAGES, "jobs/f1", "jobs/code", "jobs/gone", f"recipients?address={ADDRESS}", "mail?key=x"]
)
async def test_pages_show_neither_codes_nor_addresses_nor_secrets(
    site: Site, jobs: QueueFixture, path: str, language: str
) -> None:
    await site.log_in()
    status, html = await site.get(path, headers={"Accept-Language": language})
    assert status in (200, 404)
    assert f'<html lang="{language}">' in html
    assert CODE not in html
    assert ADDRESS not in html.replace(f'value="{ADDRESS}"', "")
    assert "<b>Ada</b>" not in html
    assert "hunter2" not in html
    assert OPERATE not in html


async def test_rendered_email_is_in_a_frame_without_rights(site: Site, jobs: QueueFixture) -> None:
    await site.log_in()
    async with site.client.get("/dashboard/jobs/code/html") as response:
        html = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert "sandbox;" in policy
    assert "default-src 'none'" in policy
    assert CODE not in html
    assert "\N{BULLET}" in html


@pytest.mark.parametrize("name", ["otp", "password-reset", "of-another-version"])
async def test_what_is_written_about_a_code_does_not_show_it(
    site: Site, jobs: QueueFixture, redis: Redis, keys: Keys, pool: asyncpg.Pool, clock: FakeClock, name: str
) -> None:
    """Neither in a reason, the log, a timeline, nor in data with a name that hides nothing; also when revealed."""
    data = f'{{"type": "{name}", "to": "{ADDRESS}", "context": {{"otpCode": "{CODE}", "subject": "{CODE} is it"}}}}'
    await jobs.put("c1", "failed", name=name, data=data, failedReason=f"bad value {CODE}", finishedOn=BORN)
    await redis.rpush(keys.logs("c1"), f"sending {CODE[:3]} {CODE[3:]}")
    failed = outcome(
        key=f"{keys.base}c1:{BORN}:1", job_id="c1", kind=name, to=ADDRESS, outcome="failed", reason=f"bad {CODE}"
    )
    await Ledger(pool, clock).write([failed])
    await site.log_in()
    for action in ("conceal", "reveal"):
        await site.act("reveal", action=action)
        for path in (
            "jobs/c1",
            "jobs/c1/html",
            "emails?state=failed",
            "emails",
            "failures",
            f"mail?key={keys.base}c1:{BORN}",
            f"recipients?address={ADDRESS}",
            "emails/preview?state=failed&action=retry",
        ):
            status, html = await site.get(path)
            assert status == 200, path
            assert CODE not in html, path
            assert f"{CODE[:3]} {CODE[3:]}" not in html, path


async def test_addresses_are_masked_wherever_producers_write_them(
    site: Site, jobs: QueueFixture, redis: Redis, keys: Keys, clock: FakeClock
) -> None:
    """In job ids, kinds, names, reasons, logs, filters of actions, and inside the email, until they are revealed."""
    data = f'{{"type": "welcome", "to": "{ADDRESS}", "context": {{"name": "{ADDRESS}"}}}}'
    await jobs.put(f"w-{ADDRESS}", "failed", name=f"hi-{ADDRESS}", data=data, failedReason=f"<{ADDRESS}>", finishedOn=1)
    await jobs.put("w2", "failed", name="welcome", data=data, failedReason=f"no {ADDRESS}", finishedOn=1)
    await redis.rpush(keys.logs("w2"), f"to {ADDRESS}")
    await site.log_in()
    assert (await site.act("actions", action="remove", state="delayed", recipient=ADDRESS, reason=ADDRESS))[0] == 303
    await site.operator.actions.wait_all()
    for path in ("emails?state=failed", "failures", "jobs/w2", "jobs/w2/html", "actions", "system"):
        _, html = await site.get(path)
        shown = re.sub(r'(?:name|value|href|action)="[^"]*"', "", unescape(html))
        assert ADDRESS not in shown, path
        assert "a***@example.org" in shown or path == "actions", path
    await site.act("reveal", action="reveal")
    assert ADDRESS in unescape((await site.get("jobs/w2/html"))[1])


async def test_revealing_addresses_leaves_a_trace_and_ends(site: Site, jobs: QueueFixture, clock: FakeClock) -> None:
    await site.log_in()
    page = "/dashboard/emails?state=failed&recipient=ada%40example.org"
    assert (await site.act("reveal", action="reveal", next=page))[0] == 303
    assert ADDRESS in (await site.get("emails?state=failed"))[1]
    [action] = await site.operator.audit("x").newest(1)
    assert (action.action, action.target) == ("addresses revealed", page.replace("%40", "@"))
    clock.advance(601)
    assert ADDRESS not in (await site.get("emails?state=failed"))[1]


@pytest.mark.parametrize(
    ("action", "job", "state"), [("retry", "f1", "wait"), ("promote", "later", "wait"), ("remove", "f1", None)]
)
async def test_actions_on_chosen_jobs(site: Site, jobs: QueueFixture, action: str, job: str, state: str | None) -> None:
    await site.log_in()
    status, location, _ = await site.act(
        "emails/selected", action=action, next="/dashboard/emails?state=failed", **{f"job:{job}": "1"}
    )
    assert (status, location) == (303, "/dashboard/emails?state=failed")
    assert await site.operator.inspector.state(job) == state
    [trace] = await site.operator.audit("x").newest(1)
    assert trace.action == f"queue {action}"
    assert trace.actor.startswith("page session ")


async def test_action_on_a_job_that_is_gone_says_so(site: Site, jobs: QueueFixture) -> None:
    await site.log_in()
    status, _, html = await site.act("emails/selected", action="retry", **{"job:gone": "1", "job:f1": "1"})
    assert status == 200
    assert "there is no job" in html
    assert await site.operator.inspector.state("f1") == "wait"


async def test_page_of_a_job_leads_to_its_email_when_an_action_has_ended_it(
    site: Site, jobs: QueueFixture, pool: asyncpg.Pool, clock: FakeClock
) -> None:
    """A retried email that is sent at once has no job any more: its page in the ledger opens, not an error."""
    await site.log_in()
    await jobs.put("1", "failed", at=BORN, failedReason="x", finishedOn=BORN)
    _, html = await site.get("jobs/1")
    [back] = set(re.findall(r'name="next" value="/dashboard/([^"]+)"', html))
    status, location, _ = await site.act(
        "emails/selected", action="remove", next=f"/dashboard/{back}", **{"job:1": "1"}
    )
    assert (status, location) == (303, f"/dashboard/{back}")
    assert (await site.get(back))[0] == 404, "nothing is known of it yet"
    key = f"{site.operator.keys.base}1:{back.partition('added=')[2]}"
    await Ledger(pool, clock).write([outcome(1, key=f"{key}:1")])
    async with site.client.get(f"/dashboard/{back}") as response:
        assert (response.status, response.url.path) == (200, "/dashboard/mail")
        assert "no longer in the queue" in await response.text()
    assert (await site.get("jobs/1"))[0] == 404


async def test_filter_of_an_action_is_in_the_language_of_the_page(site: Site, jobs: QueueFixture) -> None:
    """All its conditions, before and after the start; addresses stay masked."""
    await site.log_in()
    wanted = {"kind": "welcome", "recipient": ADDRESS, "reason": "x*", "newer_than": "7d", "older_than": "1s"}
    query = {"action": "retry", "state": "failed", **wanted}
    assert (await site.act("actions", **query))[:2] == (303, "/dashboard/actions")
    await site.operator.actions.wait_all()
    for path in (f"emails/preview?{urlencode(query)}", "actions"):
        html = unescape((await site.get(path, headers={"Accept-Language": "fr"}))[1])
        for text in (
            "type welcome, destinataire contenant «\u00a0",
            "motif contenant «\u00a0x*\u00a0»",
            "après le <time",
        ):
            assert text in html, path
        assert "avant le <time" in html
        assert ADDRESS not in html


async def test_retrying_a_group_of_failures(site: Site, jobs: QueueFixture) -> None:
    """From the list of reasons over the preview to the action: exactly the group is retried."""
    await site.log_in()
    _, html = await site.get("failures")
    links = re.findall(r'href="/dashboard/(emails/preview\?[^"]+action=retry)"', html.replace("&amp;", "&"))
    assert len(links) == 2
    _, preview = await site.get(links[0])
    assert "Matching jobs (failed): 2" in preview
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', preview))
    fields = {name: value.replace("&#34;", '"').replace("&#39;", "'") for name, value in fields.items()}
    del fields["csrf"]
    assert (await site.act("actions", **fields))[:2] == (303, "/dashboard/actions")
    await site.operator.actions.wait_all()
    found = await jobs.dump()
    assert set(found["failed"]) == {"f0"}
    assert set(found["wait"]) == {"code", "f1", "f2"}


async def test_lists_of_a_person(site: Site, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """A suppression is added and ended, an unsubscribe undone; the history says why an email was not sent."""
    await Ledger(pool, clock).write([outcome(to=ADDRESS, outcome="skipped", reason="unsubscribed from task-reminder")])
    await site.operator.recipients.suppressions.unsubscribe(ADDRESS, "task-reminder")  # type: ignore[union-attr]
    await site.log_in()
    path = f"recipients?address={ADDRESS}"
    _, html = await site.get(path)
    assert "unsubscribed from task-reminder" in html
    assert "Undo the unsubscribe" in html
    assert (await site.act("recipients", action="resubscribe", kind="task-reminder", address=ADDRESS))[0] == 303
    assert "Undo the unsubscribe" not in (await site.get(path))[1]
    lists = site.operator.recipients.suppressions  # type: ignore[union-attr]
    undone = [(one.action, one.target, one.count) for one in await lists.actions()]
    assert undone == [("unsubscribed remove (task-reminder)", ADDRESS, 1)]
    assert await site.operator.audit("").newest(10) == []
    await site.act("recipients", action="suppress", address=ADDRESS, note="asked by phone")
    assert "asked by phone" in (await site.get(path))[1]
    await site.act("recipients", action="unsuppress", address=ADDRESS)
    assert "asked by phone" not in (await site.get(path))[1]


async def test_recipient_page_says_which_kinds_would_not_be_sent(site: Site) -> None:
    """The kinds are grouped by the reason; a suppression that codes pass leaves them on the other side."""
    lists = site.operator.recipients.suppressions  # type: ignore[union-attr]
    await site.log_in()
    await lists.unsubscribe(ADDRESS, "task-reminder")
    _, html = await site.get(f"recipients?address={ADDRESS}")
    assert re.search(r"no</span> task-reminder: the recipient has unsubscribed from this kind of email", html)
    assert re.search(r"yes</span> [a-z, -]*otp", html)
    await lists.add(ADDRESS, "manual", None, actor="test")
    _, html = await site.get(f"recipients?address={ADDRESS}")
    assert re.search(r"no</span> [a-z, -]*welcome", html)
    assert re.search(r"yes</span> otp, password-reset<", html)


@pytest.mark.parametrize("into_quarter_s", [0, 1, 60, 899])
async def test_rate_and_latency_are_known_when_a_quarter_has_just_begun(
    site: Site, redis: Redis, keys: Keys, clock: FakeClock, into_quarter_s: int
) -> None:
    """The quarter of an hour before counts too: else the page would show nothing for its first minute."""
    begin = clock.now_ms() // QUARTER_MS * QUARTER_MS
    clock.advance((begin + QUARTER_MS - clock.now_ms()) / 1000 + into_quarter_s)
    counted = MinuteStatistics(sent=9_000, urgent=(0, 0, 0, 0, 10))
    await redis.hset(day_key(keys, begin), f"{begin}:mail-1:1", msgspec.json.encode(counted))
    await site.log_in()
    _, page = await site.get("")
    assert re.search(rf">\s*{round(9_000 / (15 + into_quarter_s / 60))}\s*<", page)
    assert len(re.findall(r"p99 \d", page)) == 1


async def test_french_pages_have_french_reasons(site: Site, jobs: QueueFixture, pool: asyncpg.Pool) -> None:
    """The daemon's own reasons, and the same texts are still stored, and filtered by, in English."""
    gone, left = "the account is deleted", "the recipient has unsubscribed from this kind of email"
    decision = Decision("preference", "skip", left)
    await Ledger(pool, FakeClock()).write(
        [outcome(1, key="bull:email:1:1:1", to=ADDRESS, outcome="skipped", reason=left, decisions=(decision,))]
    )
    await site.operator.recipients.suppressions.unsubscribe(ADDRESS, "task-reminder")  # type: ignore[union-attr]
    await jobs.put("f9", "failed", at=BORN, failedReason=gone, finishedOn=BORN)
    await site.log_in()
    french = {"Accept-Language": "fr"}
    for path in (f"recipients?address={ADDRESS}", f"emails?state=skipped&recipient={ADDRESS}"):
        html = unescape((await site.get(path, headers=french))[1])
        assert ("désabonné de ce type" in html, left in html) == (True, False), path
    for path in ("failures", "emails?state=failed&reason=account", "jobs/f9"):
        html = unescape((await site.get(path, headers=french))[1])
        assert "le compte est supprimé" in html, path
        assert gone in unescape((await site.get(path))[1])


async def test_french_pages_have_french_errors_results_and_health(
    site: Site, jobs: QueueFixture, redis: Redis, keys: Keys
) -> None:
    """What was not done, what became of each job of an action, and what is wrong with the daemon."""
    await site.log_in()
    site.client.headers["Accept-Language"] = "fr"
    _, html = await site.get("emails?state=x")
    assert "de ces valeurs est attendue" in unescape(html)
    _, html = await site.get("emails?state=failed&newer_than=soon")
    assert "une durée est attendue" in unescape(html)
    status, _, html = await site.act("emails/selected", action="retry", **{"job:gone": "1", "job:later": "1"})
    assert status == 200
    for text in ("il est terminé et n\u2019a pas été conservé", "seuls les jobs en échec peuvent être réessayés"):
        assert text in unescape(html)
    health = site.operator.health
    health.set_condition("account", "Resend: no (401); correct RESEND_API_KEY", next_try_at=0.0)
    health.set_condition("start", "Redis has not been reached yet")
    health.set_warning(
        "redis memory", "maxmemory-policy is allkeys-lru: jobs may be evicted; set maxmemory-policy noeviction"
    )
    health.register("fetcher").report_error(
        "Redis: Timeout connecting to server; is Redis running, and is REDIS_URL right?"
    )
    _, html = await site.get("")
    for text in (
        "compte\u00a0: Resend\u00a0: no (401)<br><small>→ corrigez RESEND_API_KEY\u202f; prochain essai maintenant<",
        "démarrage\u00a0: Redis n\u2019a pas encore été joint</li>",
        "fetcher\u00a0: Redis\u00a0: Délai dépassé en se connectant au serveur<br>",
        "maxmemory-policy vaut allkeys-lru\u00a0: des jobs peuvent être évincés<br><small>→ réglez",
    ):
        assert text in unescape(html)
    assert "Délai dépassé" in unescape((await site.get("system"))[1])
    await redis.delete(keys("wait"), keys("paused"))
    await redis.set(keys("paused"), "x")
    status, _, html = await site.act("queue", action="pause")
    assert (status, "un autre programme" in unescape(html)) == (400, True)


@pytest.mark.parametrize(
    ("made", "allowed", "english", "french"),
    [
        (1, 4, "1 / 4", "1 / 4"),
        (2, 2, "2 / 2", "2 / 2"),
        (3, 2, "3 (2 allowed, then retried manually)", "3 (maximum\u00a0: 2, puis réessayé manuellement)"),
        (2, 1, "2 (1 allowed, then retried manually)", "2 (maximum\u00a0: 1, puis réessayé manuellement)"),
    ],
)
async def test_attempts_of_a_job_that_was_retried_manually(
    site: Site, jobs: QueueFixture, made: int, allowed: int, english: str, french: str
) -> None:
    """More attempts than allowed are never shown as `3 / 2`; Redis keeps both numbers."""
    await jobs.put(
        "again",
        "failed",
        at=BORN,
        failedReason="x",
        finishedOn=BORN,
        attemptsMade=made,
        opts=f'{{"attempts":{allowed}}}',
    )
    await site.log_in()
    for path in ("emails?state=failed&reason=x", "jobs/again"):
        for language, shown in (("en", english), ("fr", french)):
            html = unescape((await site.get(path, headers={"Accept-Language": language}))[1])
            assert f">{shown}</" in html, path


async def test_page_that_does_not_exist_is_an_operators_page(site: Site) -> None:
    """A wrong address has the menu of the pages, not the text for recipients; else it leads to the login."""
    for path in ("nowhere", "emails/1/2/3", "outbox"):
        assert (await site.get(path))[0] == 303
    await site.log_in()
    for path in ("nowhere", "emails/1/2/3", "outbox"):
        status, html = await site.get(path)
        assert (status, "There is no page at this address." in html, 'href="/dashboard/failures"' in html) == (
            404,
            True,
            True,
        )


async def test_audit_masks_addresses_and_nothing_else(site: Site, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """What a command listed is no address, and is shown while addresses are masked."""
    lists = site.operator.recipients.suppressions  # type: ignore[union-attr]
    await record_reveal(lists, "emails list", 23)
    await lists.add(ADDRESS, "manual", None, actor="test")
    await site.log_in()
    html = (await site.get("system"))[1]
    assert ">emails list</td>" in html
    assert "a***@example.org" in html
    assert ADDRESS not in html


async def test_undo_of_all_kinds_undoes_every_unsubscribe(site: Site) -> None:
    """The button beside "every kind" also undoes the single ones; that beside a single one leaves the others."""
    lists = site.operator.recipients.suppressions  # type: ignore[union-attr]
    await site.log_in()
    for kind in ("*", "task-reminder", "focus-report"):
        await lists.unsubscribe(ADDRESS, kind)
    await site.act("recipients", action="resubscribe", kind="focus-report", address=ADDRESS)
    assert {one.kind for one in await lists.find_unsubscribes(ADDRESS)} == {"*", "task-reminder"}
    await site.act("recipients", action="resubscribe", kind="*", address=ADDRESS)
    assert await lists.find_unsubscribes(ADDRESS) == []


@pytest.mark.parametrize(
    ("locale", "empty", "shown"),
    [
        (
            "en",
            "The person has chosen nothing on the preference page.",
            ("Morning emails", "06:00", "weekly", "Break until"),
        ),
        ("fr", "Aucun choix sur la page de préférences.", ("E-mails du matin", "06:00", "chaque semaine", "Pause")),
    ],
)
async def test_recipient_page_shows_what_is_chosen(site: Site, locale: str, empty: str, shown: tuple[str, ...]) -> None:
    """Each choice has a name and a value in the operator's language; without choices the page says so."""
    await site.log_in()
    path, headers = f"recipients?address={ADDRESS}", {"Accept-Language": locale}
    assert empty in unescape((await site.get(path, headers=headers))[1])
    chosen = Preferences("fr", "Asia/Tokyo", 6, "weekly", datetime(2026, 3, 9, tzinfo=UTC), frozenset({"focus-report"}))
    await site.operator.recipients.preferences.save(ADDRESS, RecipientSettings(chosen))  # type: ignore[union-attr]
    html = unescape((await site.get(path, headers=headers))[1])
    assert empty not in html
    for text in (*shown, "Asia/Tokyo", "focus-report", "2026-03-09"):
        assert text in html


async def test_ledger_is_filtered_and_paged(site: Site, pool: asyncpg.Pool, clock: FakeClock) -> None:
    entries = [
        outcome(
            key=f"bull:email:{number}:1:1", job_id=str(number), to=f"p{number}@example.org", at=clock.now_ms() - number
        )
        for number in range(120)
    ]
    await Ledger(pool, clock).write(entries)
    await site.log_in()
    seen: list[str] = []
    path: str | None = "emails"
    while path is not None:
        _, html = await site.get(path)
        seen += re.findall(r'href="/dashboard/mail\?key=([^"]+)"', html)
        following = re.search(r'class="next" href="/dashboard/([^"]+)"', html)
        path = following[1].replace("&amp;", "&") if following else None
    assert len(seen) == len(set(seen)) == 120
    _, html = await site.get("emails?recipient=p7@example.org")
    assert len(re.findall("mail\\?key=", html)) == 1
    assert (await site.get(f"mail?key={seen[0]}"))[0] == 200


@pytest.mark.parametrize(
    "query",
    [
        "state=x",
        "newer_than=soon",
        "older_than=-1h",
        "newer_than=1y",
        "at=yesterday&state=sent",
        "position=-5&state=failed",
        "position=1e9&state=failed",
    ],
)
async def test_odd_queries_get_a_reason(site: Site, query: str) -> None:
    await site.log_in()
    assert (await site.get(f"emails?{query}"))[0] in (200, 400)


async def test_pages_open_while_postgres_is_away(
    unreachable_pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Each page says what it cannot show, and shows the rest."""
    lists = build_recipients(unreachable_pool, clock)
    async with serve_dashboard(build_operator(connection, keys, clock, lists), clock) as site:
        await site.log_in()
        for path in (*PAGES, f"recipients?address={ADDRESS}"):
            assert (await site.get(path))[0] == 200, path
        assert "This cannot be shown" in (await site.get("emails"))[1]
        assert "This cannot be shown" in (await site.get("provider"))[1]


async def test_login_link_works_once(site: Site, clock: FakeClock) -> None:
    link = site.sessions.login_link(OPERATE)
    assert (await site.get(f"login/{link}"))[0] == 303
    site.client.cookie_jar.clear()
    assert (await site.get(f"login/{link}"))[0] == 403
    late = site.sessions.login_link(OPERATE)
    clock.advance(601)
    assert (await site.get(f"login/{late}"))[0] == 403


async def test_outbox_shows_emails_and_no_other_file(
    connection: Connection, keys: Keys, clock: FakeClock, tmp_path: Path
) -> None:
    name = "a" * 32 + ".eml"
    (tmp_path / name).write_bytes(
        b"From: a@x.org\r\nTo: b@x.org\r\nSubject: =?utf-8?q?H=C3=A9?=\r\nContent-Type: text/html\r\n\r\n"
        b"<script>x</script>"
    )
    (tmp_path / "secret.txt").write_text("hunter2")
    async with serve_dashboard(build_operator(connection, keys, clock, None), clock, tmp_path) as site:
        await site.log_in()
        assert "Hé" in (await site.get("outbox"))[1]
        assert "<script>x" not in (await site.get(f"outbox/{name}"))[1]
        async with site.client.get(f"/dashboard/outbox/{name}/html") as response:
            assert "sandbox;" in response.headers["Content-Security-Policy"]
        for other in ("secret.txt", "..%2fsecret.txt", "b" * 32 + ".eml"):
            assert (await site.get(f"outbox/{other}"))[0] == 404


def test_both_languages_have_the_same_texts_and_placeholders() -> None:
    def shape(locale: str) -> dict[str, set[str]]:
        texts = load_texts(locale)
        return {
            f"{section}.{name}": set(re.findall(r"\{(\w+)\}", text))
            for section, names in texts.items()
            for name, text in names.items()
        }

    assert shape("en") == shape("fr")


def exposition(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()

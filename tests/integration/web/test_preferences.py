"""The preference page over a real socket and a real Postgres: what it shows, what it stores, what changes nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from aiohttp import ClientSession, web
from structlog.testing import capture_logs
from yarl import URL

from flowstate_daemon.config.loader import load
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.database.recipients import Suppressions, UserPreferenceReader
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.policy import ALL_KINDS, decide
from flowstate_daemon.mail.preferences import Preferences
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeToken
from flowstate_daemon.scheduler.definitions import build_schedules
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.preference_view import PreferenceView
from flowstate_daemon.web.preferences import PreferencePage, RecipientReader
from flowstate_daemon.web.unsubscribe import Unsubscribe
from tests.integration.web.conftest import serve
from tests.support.app_tables import AppTables
from tests.support.clock import FakeClock
from tests.unit.mail.rendered_mails import sample

TO = "ada@example.org"
CODEC = LinkTokenCodec(["a secret of more than thirty-two characters"])
LEAVABLE = [name for name, kind in KINDS.items() if kind.unsubscribable]
DAY_S = 86_400


def preference_page(pool: asyncpg.Pool, clock: FakeClock, *, schedules: bool = True, **settings: str) -> PreferencePage:
    """The page as the daemon builds it, with these settings of [schedule]."""
    config = load({f"FLOWSTATE_SCHEDULE_{name}".upper(): value for name, value in settings.items()})
    view = PreferenceView(LEAVABLE, build_schedules(config.schedule) if schedules else (), "Europe/Paris")
    reader = RecipientReader(PreferenceStore(pool, clock), UserPreferenceReader(AppDatabase(pool), clock))
    return PreferencePage(CODEC, reader, view, Pages("FlowState", "https://flowstate.example"), clock)


def routes(pool: asyncpg.Pool, clock: FakeClock) -> list[web.RouteDef]:
    unsubscribe = Unsubscribe(CODEC, Suppressions(pool, clock), Pages("FlowState", "https://flowstate.example"), clock)
    return [*preference_page(pool, clock).routes(), *unsubscribe.routes()]


@pytest.fixture
async def client(pool: asyncpg.Pool, clock: FakeClock) -> AsyncIterator[ClientSession]:
    async with serve(routes(pool, clock)) as client:
        yield client


@pytest.fixture
def store(pool: asyncpg.Pool, clock: FakeClock) -> PreferenceStore:
    return PreferenceStore(pool, clock)


@pytest.fixture
def link_token(clock: FakeClock) -> UnsubscribeToken:
    return UnsubscribeToken(TO, "overdue-summary", clock.now_ms(), "en")


@pytest.fixture
def link(link_token: UnsubscribeToken) -> str:
    return f"/preferences/{CODEC.encode(link_token)}"


class Form:
    """The main form of a page, as a browser would post it."""

    def __init__(self, page: str) -> None:
        form = re.search(
            r'<form method="post" action="\?">\s*<input type="hidden" name="action" value="save">.*?</form>',
            page,
            re.DOTALL,
        )
        assert form is not None
        self.fields = dict(re.findall(r'<input type="hidden" name="([\w]+)" value="([^"]*)">', form[0]))
        for name, checked in re.findall(
            r'<input type="checkbox" name="([\w.-]+)" value="1"[^>]*?( checked)?>', form[0]
        ):
            if checked:
                self.fields[name] = "1"
        for name, options in re.findall(r'<select name="(\w+)">(.*?)</select>', form[0], re.DOTALL):
            values = re.findall(r'<option value="([^"]*)"( selected)?>', options)
            self.fields[name] = next((value for value, selected in values if selected), values[0][0])
        for zone in re.findall(r'<input id="time-zone"[^>]* value="([^"]*)"', form[0]):
            self.fields["time_zone"] = zone

    def ticked(self) -> set[str]:
        return {name.removeprefix("on.") for name in self.fields if name.startswith("on.")}

    def tick(self, kind: str, *, on: bool) -> None:
        if on:
            self.fields[f"on.{kind}"] = "1"
        else:
            self.fields.pop(f"on.{kind}", None)


async def get(client: ClientSession, link: str, **headers: str) -> str:
    async with client.get(link, headers=headers) as response:
        assert response.status == 200
        return await response.text()


async def submit(client: ClientSession, link: str, fields: dict[str, str], status: int = 200) -> str:
    async with client.post(link, data=fields) as response:
        page = await response.text()
        assert response.status == status, page
        return page


async def change(client: ClientSession, link: str, **fields: str) -> str:
    """Open the page, change these fields, and save."""
    form = Form(await get(client, link))
    return await submit(client, link, {**form.fields, **fields})


async def test_only_post_changes_anything(client: ClientSession, store: PreferenceStore, link: str) -> None:
    """GET, HEAD, OPTIONS, PUT and DELETE, as link scanners send them, store nothing."""
    for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 405), ("PUT", 405), ("DELETE", 405)):
        async with client.request(method, f"{link}?action=stop&language=fr", data={"action": "stop"}) as response:
            assert response.status == status
    assert await store.load(TO) == RecipientSettings()


async def test_page_shows_defaults_and_stores_no_default(
    client: ClientSession, store: PreferenceStore, link: str
) -> None:
    """Everything is on at first; saving without a change makes no default a choice."""
    page = await get(client, link)
    assert "For a***@example.org." in page
    assert TO not in page
    assert Form(page).ticked() == set(LEAVABLE)
    assert page.count("this email") == 1
    assert "The day before something is due, at 9\u00a0am." in page
    assert "At 7\u00a0am as long as tasks are overdue, once a week if the list doesn\u2019t change." in page
    assert "On Sundays at 5\u00a0pm, if you had focus sessions in the week before." in page
    assert "Saved." in await change(client, link)
    assert await store.load(TO) == RecipientSettings()


@pytest.mark.parametrize("kind", LEAVABLE)
async def test_each_switch_takes_effect_before_the_next_email(
    client: ClientSession, pool: asyncpg.Pool, store: PreferenceStore, clock: FakeClock, link: str, kind: str
) -> None:
    """Unticked: the very next email of this kind is skipped, all others are sent; ticked again: it is sent."""
    form = Form(await get(client, link))
    form.tick(kind, on=False)
    form = Form(await submit(client, link, form.fields))
    assert form.ticked() == set(LEAVABLE) - {kind}
    status = (await Suppressions(pool, clock).status_for([TO]))[TO]
    now = clock.now_ms()
    for other in KINDS:
        assert decide(sample(other), status, now_ms=now, created_ms=now).send is (other != kind)
    form.tick(kind, on=True)
    await submit(client, link, form.fields)
    assert await store.load(TO) == RecipientSettings(Preferences(enabled_kinds=frozenset({kind})))


async def test_every_choice_is_stored_and_shown(
    client: ClientSession, store: PreferenceStore, clock: FakeClock, link: str
) -> None:
    """Hour, cadence, language, time zone and pause are stored, and the next page shows them, in the new language."""
    choices = {"hour": "6", "overdue": "weekly", "language": "fr", "time_zone": "america/new york", "pause": "2"}
    page = await change(client, link, **choices)
    ends = datetime(2026, 3, 16, 4, tzinfo=UTC)  # midnight in New York, where summer time begins before that
    chosen = Preferences("fr", "America/New_York", 6, "weekly", ends)
    assert (await store.load(TO)).preferences == chosen
    assert '<html lang="fr">' in page
    assert "C\u2019est enregistré" in page
    assert "Les e-mails reprendront le lundi 16 mars." in page
    assert "Le lundi à 6\u00a0h, tant que des tâches sont en retard." in page
    assert "La veille d\u2019une échéance, à 6\u00a0h." in page
    shown = Form(await get(client, link)).fields
    assert {name: shown[name] for name in choices} == {**choices, "time_zone": "America/New_York", "pause": "keep"}
    await change(client, link)
    assert (await store.load(TO)).preferences == chosen
    clock.advance((ends - clock.now()).total_seconds())
    assert Form(await get(client, link)).fields["pause"] == ""


@pytest.mark.parametrize("weeks", [1, 2, 4])
async def test_pause_ends_on_the_same_weekday(
    client: ClientSession, store: PreferenceStore, clock: FakeClock, link: str, weeks: int
) -> None:
    """A pause ends at midnight, so that the emails of that morning come; it can be ended before."""
    await change(client, link, pause=str(weeks))
    midnight = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(weeks=weeks) - timedelta(hours=2 if weeks == 4 else 1)
    assert (await store.load(TO)).preferences.paused_until == midnight
    assert "End the break" in await get(client, link)
    await submit(client, link, {"action": "end_pause", "view": "en"})
    assert (await store.load(TO)).preferences.paused_until is None


async def test_coming_back_turns_on_no_kind_that_was_left_alone(
    client: ClientSession, store: PreferenceStore, link: str
) -> None:
    """Left one kind, then all, then came back: the one stays off, on both pages."""
    form = Form(await get(client, link))
    form.tick("goal-milestone", on=False)
    await submit(client, link, form.fields)
    page = await submit(client, link, {"action": "stop", "view": "en"})
    assert Form(page).ticked() == set()
    assert "unsubscribed from all of these" in page
    page = await submit(client, link, {"action": "resume", "view": "en"})
    assert Form(page).ticked() == set(LEAVABLE) - {"goal-milestone"}
    old = link.replace("/preferences/", "/unsubscribe/")
    await submit(client, old, {"action": "unsubscribe", "scope": "all"})
    await submit(client, old, {"action": "resubscribe", "scope": "all"})
    assert (await store.load(TO)).unsubscribed == {"goal-milestone"}


async def test_ticking_while_all_is_off_gives_exactly_what_is_ticked(
    client: ClientSession, store: PreferenceStore, link: str
) -> None:
    """Nothing ticked: all stays off. One kind ticked: that one, and no other."""
    page = await submit(client, link, {"action": "stop", "view": "en"})
    form = Form(page)
    await submit(client, link, form.fields)
    assert (await store.load(TO)).unsubscribed == {ALL_KINDS}
    form.tick("focus-report", on=True)
    assert Form(await submit(client, link, form.fields)).ticked() == {"focus-report"}
    assert (await store.load(TO)).unsubscribed == set(LEAVABLE) - {"focus-report"}


async def test_a_form_that_was_opened_before_does_not_undo_an_unsubscribe(
    client: ClientSession, store: PreferenceStore, link: str
) -> None:
    """One click in the mail program, then Save on a page that was open: the kind stays off, and so does everything."""
    form = Form(await get(client, link))
    old = link.replace("/preferences/", "/unsubscribe/")
    await submit(client, old, {"List-Unsubscribe": "One-Click"})
    assert "overdue-summary" not in Form(await submit(client, link, form.fields)).ticked()
    await submit(client, old, {"action": "unsubscribe", "scope": "all"})
    await submit(client, link, {**form.fields, "hour": "6"})
    assert (await store.load(TO)).unsubscribed == {ALL_KINDS, "overdue-summary"}


async def test_one_click_stays_one_click_and_leads_to_the_preferences(client: ClientSession, link: str) -> None:
    """RFC 8058: one POST, no redirect, no cookie; its page has the link to this page, which works."""
    old = link.replace("/preferences/", "/unsubscribe/")
    async with client.post(old, data={"List-Unsubscribe": "One-Click"}, allow_redirects=False) as response:
        assert (response.status, response.cookies) == (200, {})
        page = await response.text()
    (href,) = re.findall(r'href="([^"]+)"', page)
    assert "Manage all your emails" in page
    assert "overdue-summary" not in Form(await get(client, f"/unsubscribe/{href}")).ticked()


async def test_choices_here_win_over_those_of_the_application(
    client: ClientSession, database_url: str, store: PreferenceStore, link: str
) -> None:
    """A kind that is off in `users.preferences` is shown as off; switching it on here counts."""
    connection = await asyncpg.connect(database_url)
    preferences = {"language": "fr", "timezone": "Asia/Tokyo", "notifications": {"taskReminders": False}}
    await AppTables(connection).user("ada", preferences)
    await connection.close()
    page = await get(client, link)
    form = Form(page)
    assert '<html lang="fr">' in page
    assert form.ticked() == set(LEAVABLE) - {"task-reminder"}
    assert (form.fields["time_zone"], "data-prefill" in page) == ("Asia/Tokyo", False)
    form.tick("task-reminder", on=True)
    assert "task-reminder" in Form(await submit(client, link, {**form.fields, "language": "en"})).ticked()
    assert '<html lang="en">' in await get(client, link, **{"Accept-Language": "fr"})
    assert (await store.load(TO)).preferences == Preferences("en", enabled_kinds=frozenset({"task-reminder"}))


@pytest.mark.parametrize(
    "odd",
    ["text", 7, True, [], ["fr"], {"language": 7}, {"language": {"a": 1}, "timezone": ["x"], "notifications": "yes"},
     {"notifications": [False]}, {"notifications": {"taskReminders": "maybe"}}, {"timezone": "Mars/Olympus"}],
)  # fmt: skip
async def test_odd_preferences_of_the_application_are_tolerated(
    client: ClientSession, database_url: str, link: str, odd: object
) -> None:
    """Whatever JSON the application's preferences hold, the page shows the defaults."""
    connection = await asyncpg.connect(database_url)
    await AppTables(connection).user("ada", odd)
    await connection.close()
    form = Form(await get(client, link))
    assert form.ticked() == set(LEAVABLE)
    assert (form.fields["language"], form.fields["time_zone"]) == ("en", "Europe/Paris")


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("bounced", "came back"),
        ("suppressed", "no longer delivers"),
        ("complained", "reported as spam"),
        ("manual", "are blocked"),
    ],
)
async def test_suppressed_address_sees_a_message(
    client: ClientSession, pool: asyncpg.Pool, clock: FakeClock, link: str, reason: str, text: str
) -> None:
    """The page does not pretend that a suppressed address gets what is ticked, also after Save."""
    await Suppressions(pool, clock).add(TO, reason)
    for page in (await get(client, link), await change(client, link, hour="6")):
        assert text in page
        assert 'class="notice warning" role="alert"' in page


async def test_language_switch_and_language_of_the_reader(client: ClientSession, link: str) -> None:
    """The switch wins for this view; else what was chosen, else the browser, else the email."""
    assert '<html lang="en">' in await get(client, link)
    assert '<html lang="fr">' in await get(client, link, **{"Accept-Language": "fr-CA"})
    page = await get(client, f"{link}?language=fr")
    assert '<html lang="fr">' in page
    assert 'href="?language=en" lang="en"' in page
    form = Form(page)
    form.fields["language"] = "en"
    assert '<html lang="en">' in await submit(client, f"{link}?language=fr", form.fields)
    assert '<html lang="en">' in await get(client, link, **{"Accept-Language": "fr"})
    assert '<html lang="en">' in await get(client, f"{link}?language=xx")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "localtime", "x" * 64, "<script>", "../etc/passwd", "Paris\0"])
async def test_unknown_time_zone_saves_nothing(
    client: ClientSession, store: PreferenceStore, link: str, zone: str
) -> None:
    """The page says which zone it does not know, escaped, and nothing is stored, not even the other choices."""
    form = Form(await get(client, link))
    form.tick("task-reminder", on=False)
    page = await submit(client, link, {**form.fields, "time_zone": zone, "hour": "6"}, 400)
    assert "know the time zone" in page
    assert 'aria-invalid="true"' in page
    assert "<script>" not in page
    assert await store.load(TO) == RecipientSettings()


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"action": "explode"}, {"action": "save", "hour": "4"}, {"action": "save", "hour": "-1"},
        {"action": "save", "overdue": "hourly"}, {"action": "save", "pause": "3"}, {"action": "save", "pause": "1e9"},
        {"action": "save", "language": "xx"}, {"action": "SAVE"}, {f"f{number}": "x" for number in range(300)},
    ],
)  # fmt: skip
async def test_invalid_form_changes_nothing(
    client: ClientSession, store: PreferenceStore, link: str, fields: dict[str, str]
) -> None:
    """A form that is not ours gets status 400 and a page in words."""
    assert "Nothing was changed" in await submit(client, link, fields, 400)
    assert await store.load(TO) == RecipientSettings()


async def test_form_with_invalid_bytes_or_too_large(client: ClientSession, store: PreferenceStore, link: str) -> None:
    """Bytes that are no UTF-8 get 400, a hundred kilobytes 413; nothing is stored."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for body, status in ((b"action=save&time_zone=\xff", 400), (b"action=" + b"x" * 100_000, 413)):
        async with client.post(link, data=body, headers=headers) as response:
            assert response.status == status
    assert await store.load(TO) == RecipientSettings()


async def test_kinds_that_do_not_exist_are_not_stored(client: ClientSession, store: PreferenceStore, link: str) -> None:
    """Names without a switch are ignored."""
    form = Form(await get(client, link))
    await submit(client, link, {**form.fields, "on.otp": "1", "on.<b>": "1", "shown": "otp,*,x,task-reminder"})
    assert (await store.load(TO)).unsubscribed == set()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("token", ["x", "%00", "A" * 5_000, "%3Cscript%3E", "forged", "cut"])
async def test_invalid_link_changes_nothing(
    client: ClientSession, store: PreferenceStore, link: str, method: str, token: str
) -> None:
    """A forged or truncated link gets a page in words, never JSON, without the content of the link."""
    path = {"forged": link[:-1] + "AB"[link.endswith("A")], "cut": link[:-3]}.get(token, f"/preferences/{token}")
    async with client.request(method, path, data={"action": "stop"} if method == "POST" else None) as response:
        page = await response.text()
        assert (response.status, response.content_type) == (400, "text/html")
    assert "It may have been cut off" in page
    assert "<script" not in page
    assert 'href="https://flowstate.example"' in page
    assert await store.load(TO) == RecipientSettings()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_expired_link_changes_nothing(
    client: ClientSession, store: PreferenceStore, clock: FakeClock, link: str, method: str
) -> None:
    """After 400 days the page says so, with status 410."""
    clock.advance(401 * DAY_S)
    async with client.request(method, link, data={"action": "stop"} if method == "POST" else None) as response:
        assert response.status == 410
        assert "This link has expired" in await response.text()
    assert await store.load(TO) == RecipientSettings()


async def test_link_of_a_code_email_leads_to_the_page(client: ClientSession, link_token: UnsubscribeToken) -> None:
    """Every email has the link; that of an email which always arrives does not open the unsubscribe page."""
    token = CODEC.encode(replace(link_token, kind="otp"))
    assert "this email" not in await get(client, f"/preferences/{token}")
    async with client.get(f"/unsubscribe/{token}") as response:
        assert response.status == 400


async def test_page_without_postgres(unreachable_pool: asyncpg.Pool, clock: FakeClock, link: str) -> None:
    """Without Postgres both methods get status 503, `Retry-After` and a page that says nothing was changed."""
    async with serve(routes(unreachable_pool, clock)) as client:
        for method in ("GET", "POST"):
            async with client.request(method, link, data={"action": "stop"} if method == "POST" else None) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
                assert "Nothing was changed" in await response.text()


async def test_choices_that_the_daemon_does_not_follow_are_not_offered(
    pool: asyncpg.Pool, clock: FakeClock, link: str
) -> None:
    """While the backend's schedules send, the page offers neither hour nor zone nor cadence, and names no time."""
    async with serve(preference_page(pool, clock, schedules=False).routes()) as client:
        page = await get(client, link)
    assert set(Form(page).fields) & {"hour", "overdue", "time_zone"} == set()
    assert "am" not in re.findall(r"<small[^>]*>(.*?)</small>", page)
    assert "The day before something is due. Only" in page


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"task_reminder_cron": "30 18 * * *"}, "at 6:30\u00a0pm."),
        ({"task_reminder_cron": "0 9 * * 1-5"}, "The day before something is due. Only"),
        ({"task_reminder_cron": "0 */6 * * *"}, "The day before something is due. Only"),
        ({"focus_report_cron": "0 8 * * 1"}, "On Mondays at 8\u00a0am"),
        ({"focus_report_cron": "0 8 1 * *"}, "Once a week, if"),
        ({"overdue_summary_cron": "0 7 * * 3"}, "Weekly, on Wednesdays"),
    ],
)
async def test_sentences_say_when_the_schedules_of_this_daemon_send(
    pool: asyncpg.Pool, clock: FakeClock, link: str, settings: dict[str, str], sentence: str
) -> None:
    """Times and days come from the configuration; where they cannot be said in a word, none is claimed."""
    async with serve(preference_page(pool, clock, **settings).routes()) as client:
        assert sentence in await get(client, link)


async def test_every_page_has_a_strict_security_policy(client: ClientSession, link: str) -> None:
    """Nothing from elsewhere, one style and at most one script, both by hash; no inline handler, no caching."""
    for page_link in (link, "/preferences/x"):
        async with client.get(page_link) as response:
            page, policy = await response.text(), response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert ("script-src 'sha256-" in policy) == ("<script>" in page)
        assert not re.search(r"\son\w+=|style=|src=", page)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Robots-Tag"].startswith("noindex")


async def test_link_with_more_around_it_opens_the_page(client: ClientSession, link: str) -> None:
    """Mail programs take brackets and line breaks for a part of the link; the page from there has a good link."""
    token = link.removeprefix("/preferences/")
    for written in (f"{token}%3E", f"%3C{token}", f"{token[:40]}=%0D%0A{token[40:]}", f"{token}/", f"{token}/x/y"):
        async with client.get(URL(f"/preferences/{written}", encoded=True)) as response:
            assert response.status == 200, written
            assert "Your FlowState emails" in await response.text()
        unsubscribe = URL(f"/unsubscribe/{written}", encoded=True)
        async with client.get(unsubscribe) as response:
            found = re.search(r'href="([^"]*preferences/[^"]+)"', await response.text())
        assert found is not None
        target = response.url.join(URL(found[1], encoded=True))
        assert target.raw_path == link


@pytest.mark.parametrize("written", ["", "/", "%E2%80%A6", "cut", "a/b/c"])
async def test_what_is_left_of_a_link_is_explained_in_words(client: ClientSession, written: str) -> None:
    """A person gets a page in their language, never JSON."""
    async with client.get(URL(f"/preferences/{written}", encoded=True), headers={"Accept-Language": "fr"}) as response:
        assert (response.status, response.content_type) == (400, "text/html")
        assert "Ce lien ne fonctionne pas" in await response.text()


async def test_log_contains_neither_token_nor_address(client: ClientSession, link: str) -> None:
    """The event `preferences_saved` has the masked address."""
    with capture_logs() as events:
        await change(client, link, hour="6")
    assert [event["event"] for event in events] == ["preferences_saved"]
    assert [secret for secret in (TO, link[-20:]) if secret in str(events)] == []


async def test_international_domain_is_one_recipient(
    pool: asyncpg.Pool, clock: FakeClock, client: ClientSession, link_token: UnsubscribeToken
) -> None:
    """The link has the xn-- form, the application stores the other: both find what was chosen."""
    token = CODEC.encode(replace(link_token, address="zoe@xn--bcher-kva.example"))
    await change(client, f"/preferences/{token}", hour="6")
    status = await Suppressions(pool, clock).status_for(["Zoe@bücher.example", "zoe@xn--bcher-kva.example"])
    assert {one.preferences.morning_hour for one in status.values()} == {6}

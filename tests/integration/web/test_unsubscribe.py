"""Unsubscribing and resubscribing over a real socket and a real Postgres: only POST changes anything."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import asyncpg
import pytest
from aiohttp import ClientSession, FormData, MultipartWriter, web
from structlog.testing import capture_logs
from yarl import URL

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.policy import ALL_KINDS, decide
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks, UnsubscribeToken
from flowstate_daemon.web.pages import Pages, error_page
from flowstate_daemon.web.unsubscribe import MAX_FORM_BYTES, Unsubscribe
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.unit.mail.rendered_mails import BRAND, sample

TO = "ada@example.org"
KIND = "task-reminder"
CODEC = LinkTokenCodec(["a secret of more than thirty-two characters"])
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
DAY_S = 86_400


@pytest.fixture
def store(pool: asyncpg.Pool, clock: FakeClock) -> Suppressions:
    return Suppressions(pool, clock)


def unsubscribe_routes(store: Suppressions, clock: FakeClock) -> list[web.RouteDef]:
    return list(Unsubscribe(CODEC, store, Pages("FlowState", "https://flowstate.example"), clock).routes())


@pytest.fixture
async def client(store: Suppressions, clock: FakeClock) -> AsyncIterator[ClientSession]:
    async with serve(unsubscribe_routes(store, clock)) as client:
        yield client


@pytest.fixture
def link_token(clock: FakeClock) -> UnsubscribeToken:
    return UnsubscribeToken(TO, KIND, clock.now_ms(), "en")


@pytest.fixture
def link(link_token: UnsubscribeToken) -> str:
    return f"/unsubscribe/{CODEC.encode(link_token)}"


async def unsubscribed_kinds(store: Suppressions) -> set[str]:
    """The kinds that the address is unsubscribed from."""
    return set((await store.status_for([TO]))[TO].unsubscribed)


async def submit(client: ClientSession, link: str, action: str, scope: str = "kind") -> str:
    """Submit a form of the page, and return the next page."""
    async with client.post(link, data={"action": action, "scope": scope}) as response:
        assert response.status == 200
        return await response.text()


def form_actions(page: str) -> list[tuple[str, ...]]:
    """Action and scope of each form of the page."""
    return re.findall(r'name="action" value="(\w+)">\s*<input type="hidden" name="scope" value="(\w+)"', page)


async def test_only_post_changes_the_subscription(client: ClientSession, store: Suppressions, link: str) -> None:
    """GET, HEAD, OPTIONS, PUT and DELETE, as link scanners send them, unsubscribe from nothing."""
    for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 405), ("PUT", 405), ("DELETE", 405)):
        for query in ("", "?action=unsubscribe&scope=all&List-Unsubscribe=One-Click"):
            async with client.request(method, link + query, data=ONE_CLICK) as response:
                assert response.status == status
    assert await unsubscribed_kinds(store) == set()


async def test_page_asks_for_confirmation(client: ClientSession, link: str) -> None:
    """The page names the redacted address and the kind, offers one kind or all, and has no link with an effect."""
    async with client.get(link) as response:
        page = await response.text()
    assert "Unsubscribe from task reminders?" in page
    assert "We\u2019ll stop sending them to a***@example.org." in page
    assert TO not in page
    assert form_actions(page) == [("unsubscribe", "kind"), ("unsubscribe", "all")]
    assert re.findall(r'(?:href|src|action)="(\S+)"', page) == [link.replace("/unsubscribe/", "../preferences/")]


async def test_unsubscribe_and_resubscribe_one_kind(client: ClientSession, store: Suppressions, link: str) -> None:
    """Each form has an immediate effect, may be submitted twice, and the next page offers the opposite."""
    for _ in range(2):
        page = await submit(client, link, "unsubscribe")
        assert await unsubscribed_kinds(store) == {KIND}
        assert "No more task reminders for a***@example.org." in page
        assert form_actions(page) == [("resubscribe", "kind"), ("unsubscribe", "all")]
    async with client.get(link) as response:
        assert "You\u2019re unsubscribed" in await response.text()
    for _ in range(2):
        page = await submit(client, link, "resubscribe")
        assert await unsubscribed_kinds(store) == set()
        assert "Task reminders will reach a***@example.org." in page
        assert form_actions(page) == [("unsubscribe", "kind")]


async def test_unsubscribing_takes_effect_before_the_next_email(
    client: ClientSession, store: Suppressions, clock: FakeClock
) -> None:
    """After a POST to the link of a rendered email, emails of this kind are skipped and other kinds are sent."""
    links = UnsubscribeLinks("https://mail.flowstate.example", CODEC)
    mail = Renderer(BRAND, links).render(sample(KIND), issued_ms=clock.now_ms())
    link = mail.headers["List-Unsubscribe"].strip("<>").removeprefix(links.public_url)
    async with client.post(link, data=ONE_CLICK) as response:
        assert response.status == 200
    status = (await store.status_for([mail.to]))[mail.to]
    now = clock.now_ms()
    assert decide(sample(KIND), status, now_ms=now, created_ms=now).outcome == "skipped"
    for kind in ("focus-report", "otp", "welcome"):
        assert decide(sample(kind), status, now_ms=now, created_ms=now).send


async def test_unsubscribe_and_resubscribe_all_kinds(client: ClientSession, store: Suppressions, link: str) -> None:
    """All kinds are stopped together; resubscribing to one kind alone does not claim that it is sent again."""
    assert form_actions(await submit(client, link, "unsubscribe", "all")) == [("resubscribe", "all")]
    assert await unsubscribed_kinds(store) == {ALL_KINDS}
    assert "unsubscribed from everything" in await submit(client, link, "resubscribe", "kind")
    assert await unsubscribed_kinds(store) == {ALL_KINDS}
    assert "You\u2019re subscribed again" in await submit(client, link, "resubscribe", "all")
    assert await unsubscribed_kinds(store) == set()


def multipart() -> MultipartWriter:
    writer = MultipartWriter("form-data")
    part = writer.append("One-Click")
    part.set_content_disposition("form-data", name="List-Unsubscribe")
    return writer


@pytest.mark.parametrize("body", ["form", "multipart"])
async def test_one_click_unsubscribes_from_the_kind(
    client: ClientSession, store: Suppressions, link: str, body: str
) -> None:
    """The button of an email client (RFC 8058) works with both form encodings and sets no cookie."""
    data = FormData(ONE_CLICK) if body == "form" else multipart()
    async with client.post(link, data=data, allow_redirects=False) as response:
        assert response.status == 200
        assert response.cookies == {}
    assert await unsubscribed_kinds(store) == {KIND}


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b"List-Unsubscribe=One-Click\r\n"),
        (FORM, b"List-Unsubscribe=One-Click\n"),
        (FORM, b"\r\nList-Unsubscribe=One-Click"),
        (FORM, b"List-Unsubscribe=One-Click "),
        (FORM, b"list-unsubscribe=one-click"),
        (FORM, b"LIST-UNSUBSCRIBE=ONE-CLICK"),
        (FORM, b"List-Unsubscribe=One-Click%0D%0A"),
        (FORM, b"a=b&List-Unsubscribe=One-Click"),
        (FORM, b""),
        (FORM, b"\r\n"),
        ("application/octet-stream", b""),
        ("text/plain", b"List-Unsubscribe=One-Click"),
        ("Multipart/Form-Data; boundary=x", b""),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="LIST-unsubscribe"\r\n\r\none-click\r\n\r\n--x--',
        ),
    ],
)
async def test_one_click_in_any_spelling(
    client: ClientSession, store: Suppressions, link: str, content_type: str, body: bytes
) -> None:
    """A final line break, other capitals and an empty body are a person's press of the button."""
    async with client.post(link, data=body, headers={"Content-Type": content_type}) as response:
        assert response.status == 200
        assert "re unsubscribed" in await response.text()
    assert await unsubscribed_kinds(store) == {KIND}


async def test_one_click_without_content_type(client: ClientSession, store: Suppressions, link: str) -> None:
    """No header and no body at all."""
    async with client.post(link, skip_auto_headers=["Content-Type"]) as response:
        assert response.status == 200
    assert await unsubscribed_kinds(store) == {KIND}


async def test_link_with_more_around_it_works(client: ClientSession, link: str) -> None:
    """Mail programs take brackets, punctuation and line breaks for a part of the link."""
    token = link.removeprefix("/unsubscribe/")
    broken = f"{token[:40]}=%0D%0A{token[40:90]}%20{token[90:]}"
    for after in ("/", "%3E", ".", ")", "%22", "%0D%0A", "&utm_source=mail", ";x", ",%0Amore", "?a=b"):
        for written in (f"{token}{after}", f"%3C{broken}{after}", f"({token}{after}"):
            async with client.get(URL(f"/unsubscribe/{written}", encoded=True)) as response:
                assert response.status == 200, written
                assert "Unsubscribe from task reminders?" in await response.text()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/unsubscribe/", 400),
        ("/unsubscribe", 404),
        ("/unsubscri", 404),
        ("/Unsubscribe/", 404),
        ("/unsubscribe//", 400),
        ("/unsubscribe/a/b/c", 400),
        ("/unsubscribe/%E2%80%A6", 400),
        ("/preferences/cut", 404),
        ("/", 404),
    ],
)
@pytest.mark.parametrize(("language", "words"), [("en", "This link doesn"), ("fr", "Ce lien ne fonctionne pas")])
async def test_mangled_link_is_explained_in_words(
    store: Suppressions, clock: FakeClock, path: str, status: int, language: str, words: str
) -> None:
    """Whatever is left of a link, a person gets a page in their language, and never JSON."""
    pages = Pages("FlowState", "https://flowstate.example")
    async with serve(unsubscribe_routes(store, clock), partial(error_page, pages)) as client:
        headers = {"Accept": "text/html,application/xhtml+xml", "Accept-Language": language}
        async with client.get(URL(path, encoded=True), headers=headers) as response:
            assert (response.status, response.content_type) == (status, "text/html")
            assert words in await response.text()


async def test_every_error_of_a_link_is_explained_in_words(store: Suppressions, clock: FakeClock, link: str) -> None:
    """Also for clients that name no media type: a wrong method, a form that is too long, and a mistake of ours."""
    pages = Pages("FlowState", "https://flowstate.example")
    async with serve(unsubscribe_routes(store, clock), partial(error_page, pages)) as client:
        for method, data, status in (("PUT", b"", 405), ("POST", b"a" * (MAX_FORM_BYTES + 1), 413)):
            async with client.request(method, link, data=data) as response:
                assert (response.status, response.content_type) == (status, "text/html")
                assert "Nothing was changed" in await response.text()
                assert status != 405 or response.headers["Allow"]


async def test_programs_get_json(store: Suppressions, clock: FakeClock) -> None:
    """The API, health, metrics and webhooks answer programs, whatever they accept."""
    pages = Pages("FlowState", "https://flowstate.example")
    async with serve(unsubscribe_routes(store, clock), partial(error_page, pages)) as client:
        for path in ("/api/v1/nothing", "/health/nothing", "/metrics/nothing", "/webhooks/nothing"):
            async with client.get(path, headers={"Accept": "text/html"}) as response:
                assert (response.status, response.content_type) == (404, "application/problem+json")
        async with client.get("/nothing") as response:
            assert (response.status, response.content_type) == (404, "application/problem+json")


async def test_page_that_cannot_be_rendered_is_json(store: Suppressions, clock: FakeClock, link: str) -> None:
    """A mistake in the page of an error is logged, and the client still gets an answer."""

    def fail(_request: web.Request, _status: int) -> None:
        raise RuntimeError("a bug")

    async with serve(unsubscribe_routes(store, clock), fail) as client:
        with capture_logs() as events:
            async with client.put(link) as response:
                assert (response.status, response.content_type) == (405, "application/problem+json")
    assert [event["event"] for event in events] == ["error_page_failed"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"action=explode"),
        ("application/x-www-form-urlencoded", b"action=unsubscribe&scope=world"),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=yes"),
        ("application/x-www-form-urlencoded", b"Unsubscribe=One-Click"),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click&action=explode"),
        ("application/x-www-form-urlencoded", b"a=b&" * 100 + b"List-Unsubscribe=One-Click"),
        ("application/json", b'{"List-Unsubscribe": "One-Click"}'),
        ("", b"hello"),
        ("application/x-www-form-urlencoded", b"action=%ff%fe"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"\xff\xfe=1"),
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a'),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="action"; filename="f"\r\n\r\nz\r\n--x--\r\n',
        ),
        ("multipart/form-data; boundary=" + "x" * 100, b"--"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Transfer-Encoding: quux\r\n\r\nz\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n" * 50),
        ("multipart/form-data; charset=klingon; boundary=x", b"--x\r\nfoo\r\n\r\nz\r\n--x--"),
    ],
)
async def test_invalid_form_changes_nothing(
    client: ClientSession, store: Suppressions, link: str, content_type: str, body: bytes
) -> None:
    """An invalid form gets status 400 and a page that says so, logs no error, and changes nothing."""
    with capture_logs() as events:
        async with client.post(link, data=body, headers={"Content-Type": content_type}) as response:
            assert response.status == 400
            assert "Nothing was changed" in await response.text()
    assert events == []
    assert await unsubscribed_kinds(store) == set()


async def test_compressed_form_is_rejected(client: ClientSession, store: Suppressions, link: str) -> None:
    """The server decompresses no request body, so a compressed form is an invalid one."""
    compressed = zlib.compress(b"List-Unsubscribe=One-Click" + b"&a=b" * 1_000_000)
    assert len(compressed) < MAX_FORM_BYTES
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "deflate"}
    async with client.post(link, data=compressed, headers=headers) as response:
        assert response.status == 400
    assert await unsubscribed_kinds(store) == set()


async def test_form_above_the_size_limit_is_rejected(client: ClientSession, store: Suppressions, link: str) -> None:
    """A form of a hundred kilobytes gets status 413."""
    async with client.post(
        link, data=b"action=" + b"x" * 100_000, headers={"Content-Type": "application/x-www-form-urlencoded"}
    ) as response:
        assert response.status == 413
    assert await unsubscribed_kinds(store) == set()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("token", ["x", "%00", "%F0%9F%92%A3", "A" * 5_000, "%3Cscript%3E", "..", "forged", "cut"])
async def test_invalid_link_changes_nothing(
    client: ClientSession, store: Suppressions, link: str, method: str, token: str
) -> None:
    """A forged or truncated link gets a page that says so, without the content of the link."""
    path = {"forged": link[:-1] + "AB"[link.endswith("A")], "cut": link[:-3]}.get(token, f"/unsubscribe/{token}")
    async with client.request(method, path, data=ONE_CLICK if method == "POST" else None) as response:
        page = await response.text()
        assert response.status == (404 if token == ".." else 400)
        assert "script" not in page
        assert token == ".." or "This link doesn\u2019t work" in page
    assert await unsubscribed_kinds(store) == set()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_expired_link_changes_nothing(
    client: ClientSession, store: Suppressions, clock: FakeClock, link: str, method: str
) -> None:
    """After 400 days the page says that the link has expired, and leads to the application."""
    clock.advance(401 * DAY_S)
    async with client.request(method, link) as response:
        page = await response.text()
    assert response.status == 410
    assert "This link has expired" in page
    assert 'href="https://flowstate.example"' in page
    assert await unsubscribed_kinds(store) == set()


async def test_page_without_postgres(unreachable_pool: asyncpg.Pool, clock: FakeClock, link: str) -> None:
    """Without Postgres the page is shown; a form gets status 503, `Retry-After` and a page saying nothing changed."""
    async with serve(unsubscribe_routes(Suppressions(unreachable_pool, clock), clock)) as client:
        async with client.get(link) as response:
            assert response.status == 200
            assert "Unsubscribe from task reminders?" in await response.text()
        for action in ("unsubscribe", "resubscribe"):
            async with client.post(link, data={"action": action}) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
                assert "Nothing was changed" in await response.text()


@pytest.mark.parametrize(
    ("accepted", "locale", "text"),
    [
        ("", "fr", "Se désabonner des rappels de tâches\u202f?"),
        ("en-GB", "fr", "Unsubscribe from task reminders?"),
        ("fr-CA,en;q=0.5", "en", "Se désabonner des rappels de tâches\u202f?"),
    ],
)
async def test_page_is_in_the_language_of_the_reader(
    client: ClientSession, link_token: UnsubscribeToken, accepted: str, locale: str, text: str
) -> None:
    """The language is that of the browser, else that of the email."""
    link = f"/unsubscribe/{CODEC.encode(replace(link_token, locale=locale))}"
    async with client.get(link, headers={"Accept-Language": accepted}) as response:
        page = await response.text()
    assert text in page
    assert f'<html lang="{"fr" if "é" in text else "en"}">' in page


async def test_every_page_has_the_security_headers(client: ClientSession, link: str) -> None:
    """No caching, no indexing, no referrer and a strict content security policy, on error pages too."""
    for path in (link, "/unsubscribe/x"):
        for method in ("GET", "POST"):
            async with client.request(method, path) as response:
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert response.headers["X-Robots-Tag"].startswith("noindex")
                assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
                assert response.content_type == "text/html"


async def test_log_contains_neither_token_nor_address(client: ClientSession, link: str) -> None:
    """The events `unsubscribed` and `resubscribed` contain no full address and no token."""
    with capture_logs() as events:
        await submit(client, link, "unsubscribe")
        await submit(client, link, "resubscribe")
    assert [event["event"] for event in events] == ["unsubscribed", "resubscribed"]
    assert TO not in str(events)
    assert link[-20:] not in str(events)


async def test_internal_error_logs_the_route_and_not_the_token(
    client: ClientSession, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an unexpected exception the log has the route pattern instead of the path."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Pages, "render", fail)
    with capture_logs() as events:
        async with client.get(link) as response:
            assert response.status == 500
    assert [(event["event"], event["path"]) for event in events] == [("request_failed", "/unsubscribe/{token}")]


async def test_link_changes_only_its_own_address(
    client: ClientSession, store: Suppressions, link_token: UnsubscribeToken
) -> None:
    """A link unsubscribes its own address, whatever its letter case, and no other one."""
    await submit(client, f"/unsubscribe/{CODEC.encode(replace(link_token, address='Bob@Example.org'))}", "unsubscribe")
    statuses = await store.status_for([TO, "bob@example.org"])
    assert statuses[TO].unsubscribed == frozenset()
    assert statuses["bob@example.org"].unsubscribed == {KIND}


async def test_changes_by_recipients_are_counted(store: Suppressions, clock: FakeClock, link: str) -> None:
    """What changes nothing, such as a second press of the button, is not counted."""
    metrics = Metrics()
    pages = Pages("FlowState", "https://flowstate.example")
    unsubscribe = Unsubscribe(CODEC, store, pages, clock, on_change=metrics.recipient_changed)
    async with serve(unsubscribe.routes()) as client:
        await submit(client, link, "resubscribe")
        for action in ("unsubscribe", "unsubscribe", "resubscribe", "unsubscribe"):
            await submit(client, link, action)

    def value(action: str) -> float | None:
        return metrics.registry.get_sample_value("flowstate_unsubscribes_total", {"action": action})

    assert (value("unsubscribed"), value("resubscribed")) == (2, 1)

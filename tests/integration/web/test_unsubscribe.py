"""Leaving and coming back over a real socket and a real Postgres: POST does it, nothing else does."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest
from aiohttp import ClientSession, FormData, MultipartWriter
from structlog.testing import capture_logs

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.policy import ALL_KINDS, RecipientStatus, decide
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks, UnsubscribeToken
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.server import HttpServer
from flowstate_daemon.web.unsubscribe import MAX_FORM_BYTES, Unsubscribe
from tests.support.clock import FakeClock
from tests.unit.mail.rendered_mails import BRAND, sample

TO = "ada@example.org"
KIND = "task-reminder"
STORE = LinkTokenCodec(["a secret of more than thirty-two characters"])
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
DAY_S = 86_400


class Away:
    """A store that is not there."""

    async def unsubscribe(self, address: str, kind: str) -> bool:
        raise StoreUnavailableError("Postgres: away")

    async def resubscribe(self, address: str, kind: str) -> list[str]:
        raise StoreUnavailableError("Postgres: away")

    async def status_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        raise StoreUnavailableError("Postgres: away")


@pytest.fixture
async def store(database_url: str, clock: FakeClock) -> AsyncIterator[Suppressions]:
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        yield Suppressions(pool, clock)


@pytest.fixture
async def client(store: Suppressions, clock: FakeClock) -> AsyncIterator[ClientSession]:
    async for session in serving(store, clock):
        yield session


async def serving(store: Suppressions, clock: FakeClock) -> AsyncIterator[ClientSession]:
    routes = Unsubscribe(STORE, store, Pages("FlowState", "https://flowstate.example"), clock).routes()
    endpoint = HttpServer(routes, host="127.0.0.1", port=0)
    await endpoint.open()
    async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as session:
        yield session
    await endpoint.close()


@pytest.fixture
def ticket(clock: FakeClock) -> UnsubscribeToken:
    return UnsubscribeToken(TO, KIND, clock.now_ms(), "en")


@pytest.fixture
def link(ticket: UnsubscribeToken) -> str:
    return f"/unsubscribe/{STORE.encode(ticket)}"


async def left(store: Suppressions) -> set[str]:
    """The kinds that Ada has left."""
    return set((await store.status_for([TO]))[TO].unsubscribed)


async def press(client: ClientSession, link: str, action: str, scope: str = "kind") -> str:
    """Press a button of the page; the page that comes back."""
    async with client.post(link, data={"action": action, "scope": scope}) as response:
        assert response.status == 200
        return await response.text()


def offered(page: str) -> list[tuple[str, ...]]:
    """What the page's buttons would post."""
    return re.findall(r'name="action" value="(\w+)">\s*<input type="hidden" name="scope" value="(\w+)"', page)


async def test_looking_changes_nothing(client: ClientSession, store: Suppressions, link: str) -> None:
    """Scanners open links, ask for heads and options, and follow what they find: nobody is unsubscribed by that."""
    for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 405), ("PUT", 405), ("DELETE", 405)):
        for query in ("", "?action=unsubscribe&scope=all&List-Unsubscribe=One-Click"):
            async with client.request(method, link + query, data=ONE_CLICK) as response:
                assert response.status == status
    assert await left(store) == set()


async def test_the_page_asks_first(client: ClientSession, link: str) -> None:
    """It says who leaves what, without the full address, and offers one kind or all; it contains no link that acts."""
    async with client.get(link) as response:
        page = await response.text()
    assert "a***@example.org will get no more reminders of tasks." in page
    assert TO not in page
    assert offered(page) == [("unsubscribe", "kind"), ("unsubscribe", "all")]
    assert re.findall(r'(?:href|src|action)="(\S+)"', page) == ["https://flowstate.example/settings/notifications"]


async def test_leaving_one_kind_and_coming_back(client: ClientSession, store: Suppressions, link: str) -> None:
    """The button does it at once, doing it again is no error, and the page offers the way back."""
    for _ in range(2):
        page = await press(client, link, "unsubscribe")
        assert await left(store) == {KIND}
        assert "gets no more reminders of tasks" in page
        assert offered(page) == [("resubscribe", "kind"), ("unsubscribe", "all")]
    async with client.get(link) as response:
        assert "You are unsubscribed" in await response.text()
    for _ in range(2):
        page = await press(client, link, "resubscribe")
        assert await left(store) == set()
        assert "You are subscribed" in page
        assert offered(page) == [("unsubscribe", "kind")]


async def test_leaving_takes_effect_before_the_next_mail(
    client: ClientSession, store: Suppressions, clock: FakeClock
) -> None:
    """The link out of a rendered mail, pressed: the next mail of this kind is skipped, other kinds go on."""
    links = UnsubscribeLinks("https://mail.flowstate.example", STORE)
    mail = Renderer(BRAND, links).render(sample(KIND), made_ms=clock.now_ms())
    link = mail.headers["List-Unsubscribe"].strip("<>").removeprefix(links.public_url)
    async with client.post(link, data=ONE_CLICK) as response:
        assert response.status == 200
    facts = (await store.status_for([mail.to]))[mail.to]
    now = clock.now_ms()
    assert decide(sample(KIND), facts, now_ms=now, made_ms=now).outcome == "skipped"
    for kind in ("focus-report", "otp", "welcome"):
        assert decide(sample(kind), facts, now_ms=now, made_ms=now).send


async def test_leaving_everything_and_coming_back(client: ClientSession, store: Suppressions, link: str) -> None:
    """All is all; coming back to one kind only does not pretend that it arrives again."""
    assert offered(await press(client, link, "unsubscribe", "all")) == [("resubscribe", "all")]
    assert await left(store) == {ALL_KINDS}
    assert "unsubscribed from everything" in await press(client, link, "resubscribe", "kind")
    assert await left(store) == {ALL_KINDS}
    assert "You are subscribed" in await press(client, link, "resubscribe", "all")
    assert await left(store) == set()


def multipart() -> MultipartWriter:
    writer = MultipartWriter("form-data")
    part = writer.append("One-Click")
    part.set_content_disposition("form-data", name="List-Unsubscribe")
    return writer


@pytest.mark.parametrize("body", ["form", "multipart"])
async def test_one_click(client: ClientSession, store: Suppressions, link: str, body: str) -> None:
    """A mail program's own button (RFC 8058) leaves this kind, with a form of either type and without cookies."""
    data = FormData(ONE_CLICK) if body == "form" else multipart()
    async with client.post(link, data=data, allow_redirects=False) as response:
        assert response.status == 200
        assert response.cookies == {}
    assert await left(store) == {KIND}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"action=explode"),
        ("application/x-www-form-urlencoded", b"action=unsubscribe&scope=world"),
        ("application/x-www-form-urlencoded", b""),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=yes"),
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
async def test_hostile_forms_change_nothing(
    client: ClientSession, store: Suppressions, link: str, content_type: str, body: bytes
) -> None:
    """A form that makes no sense gets a clear page; it is no crash, and nothing is changed."""
    with capture_logs() as events:
        async with client.post(link, data=body, headers={"Content-Type": content_type}) as response:
            assert response.status == 400
            assert "Nothing was changed" in await response.text()
    assert events == []
    assert await left(store) == set()


async def test_a_packed_form_is_not_unpacked(client: ClientSession, store: Suppressions, link: str) -> None:
    """Compression is not undone for strangers: what arrives is no form."""
    packed = zlib.compress(b"List-Unsubscribe=One-Click" + b"&a=b" * 1_000_000)
    assert len(packed) < MAX_FORM_BYTES
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "deflate"}
    async with client.post(link, data=packed, headers=headers) as response:
        assert response.status == 400
    assert await left(store) == set()


async def test_a_huge_form_is_refused(client: ClientSession, store: Suppressions, link: str) -> None:
    """Nobody needs a hundred kilobytes to leave."""
    async with client.post(
        link, data=b"action=" + b"x" * 100_000, headers={"Content-Type": "application/x-www-form-urlencoded"}
    ) as response:
        assert response.status == 413
    assert await left(store) == set()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("token", ["x", "%00", "%F0%9F%92%A3", "A" * 5_000, "%3Cscript%3E", "..", "forged", "cut"])
async def test_forged_links(client: ClientSession, store: Suppressions, link: str, method: str, token: str) -> None:
    """A link that is not ours gets a clear page and changes nothing; what stood in it is not shown."""
    path = {"forged": link[:-1] + "AB"[link.endswith("A")], "cut": link[:-3]}.get(token, f"/unsubscribe/{token}")
    async with client.request(method, path, data=ONE_CLICK if method == "POST" else None) as response:
        page = await response.text()
        assert response.status == (404 if token == ".." else 400)
        assert "script" not in page
        assert token == ".." or "This link does not work" in page
    assert await left(store) == set()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_expired_links(
    client: ClientSession, store: Suppressions, clock: FakeClock, link: str, method: str
) -> None:
    """After 400 days a link says that it is too old, and where to go instead."""
    clock.advance(401 * DAY_S)
    async with client.request(method, link) as response:
        page = await response.text()
    assert response.status == 410
    assert "This link has expired" in page
    assert "https://flowstate.example/settings/notifications" in page
    assert await left(store) == set()


async def test_while_the_store_is_away(clock: FakeClock, link: str) -> None:
    """Looking still works; leaving says honestly that it did not happen, and when to try again."""
    async for client in serving(Away(), clock):
        async with client.get(link) as response:
            assert response.status == 200
            assert "Unsubscribe?" in await response.text()
        for action in ("unsubscribe", "resubscribe"):
            async with client.post(link, data={"action": action}) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
                assert "Nothing was changed" in await response.text()


@pytest.mark.parametrize(
    ("accepted", "locale", "text"),
    [("", "fr", "Se désabonner ?"), ("en-GB", "fr", "Unsubscribe?"), ("fr-CA,en;q=0.5", "en", "Se désabonner ?")],
)
async def test_the_page_speaks_the_reader_s_language(
    client: ClientSession, ticket: UnsubscribeToken, accepted: str, locale: str, text: str
) -> None:
    """The browser's language, else the mail's."""
    link = f"/unsubscribe/{STORE.encode(replace(ticket, locale=locale))}"
    async with client.get(link, headers={"Accept-Language": accepted}) as response:
        page = await response.text()
    assert text in page
    assert f'<html lang="{"fr" if "é" in text else "en"}">' in page


async def test_every_page_wears_its_headers(client: ClientSession, link: str) -> None:
    """Not kept, not indexed, not framed, no referrer, no script: also on refusals."""
    for path in (link, "/unsubscribe/x"):
        for method in ("GET", "POST"):
            async with client.request(method, path) as response:
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert response.headers["X-Robots-Tag"].startswith("noindex")
                assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
                assert response.content_type == "text/html"


async def test_the_log_holds_neither_token_nor_address(client: ClientSession, link: str) -> None:
    """What is written about leaving says who only as far as an operator needs."""
    with capture_logs() as events:
        await press(client, link, "unsubscribe")
        await press(client, link, "resubscribe")
    assert [event["event"] for event in events] == ["unsubscribed", "resubscribed"]
    assert TO not in str(events)
    assert link[-20:] not in str(events)


async def test_a_bug_logs_the_route_and_not_the_token(
    clock: FakeClock, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when we fall, the link stays out of the log."""

    def fall(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Pages, "render", fall)
    async for client in serving(Away(), clock):
        with capture_logs() as events:
            async with client.get(link) as response:
                assert response.status == 500
    assert [(event["event"], event["path"]) for event in events] == [("request_failed", "/unsubscribe/{token}")]


async def test_two_people_do_not_touch_each_other(
    client: ClientSession, store: Suppressions, ticket: UnsubscribeToken
) -> None:
    """A link is for its own person, however the address is spelt."""
    await press(client, f"/unsubscribe/{STORE.encode(replace(ticket, address='Bob@Example.org'))}", "unsubscribe")
    facts = await store.status_for([TO, "bob@example.org"])
    assert facts[TO].unsubscribed == frozenset()
    assert facts["bob@example.org"].unsubscribed == {KIND}

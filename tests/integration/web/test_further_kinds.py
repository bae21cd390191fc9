"""The kinds of `mail.kinds_dir` on the pages of recipients and in the API, over a real socket and a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientSession

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.preferences import PreferenceStore
from flowstate_daemon.database.recipients import Suppressions, UserPreferenceReader
from flowstate_daemon.mail.catalog import Catalog, load_catalog
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeToken
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.api_v1.app import ApiV1
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.preference_view import PreferenceView
from flowstate_daemon.web.preferences import PreferencePage, RecipientReader
from flowstate_daemon.web.session import Sessions
from flowstate_daemon.web.unsubscribe import Unsubscribe
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.support.kind_folders import BADGE, write_kind
from tests.support.operator_api import OPERATE, build_operator, build_recipients

TO = "ada@example.org"
CODEC = LinkTokenCodec(["a secret of more than thirty-two characters"])
BEARER = {"Authorization": f"Bearer {OPERATE}"}
API = f"/api/v1/recipients/{TO}/preferences"
EMAILS = "/api/v1/emails"
BADGE_MAIL = {"kind": "new-badge", "to": TO, "context": {"badgeName": "Early bird", "points": 5}}
ALWAYS_SENT = {**BADGE, "kind.toml": BADGE["kind.toml"].replace("unsubscribable = true\n", "")}

NAMED = 'kind_name = "vouchers"\nwhy = "You get this when you earn a voucher."\n'


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    write_kind(tmp_path, "new-badge", BADGE)
    write_kind(tmp_path, "voucher", {**BADGE, "texts/en.toml": NAMED + BADGE["texts/en.toml"]})
    return load_catalog(write_kind(tmp_path, "receipt", ALWAYS_SENT))


@pytest.fixture
async def client(
    pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock, catalog: Catalog
) -> AsyncIterator[ClientSession]:
    store, pages = PreferenceStore(pool, clock), Pages("FlowState", "https://flowstate.example", catalog.page_texts)
    reader = RecipientReader(store, UserPreferenceReader(AppDatabase(pool), clock))
    view = PreferenceView(catalog.unsubscribable, (), "Europe/Paris")
    operator = build_operator(connection, keys, clock, build_recipients(pool, clock))
    brand = Brand("FlowState <hello@flowstate.example>", "FlowState", "https://app.example", "en")
    operator.reload(Renderer(brand, None, catalog))
    api = ApiV1(operator, Sessions([(OPERATE, "operate")], clock, secure=False), Metrics(catalog.kinds))
    routes = [
        *PreferencePage(CODEC, reader, view, pages, clock).routes(),
        *Unsubscribe(CODEC, Suppressions(pool, clock), pages, clock, catalog.kinds).routes(),
        *api.routes(),
    ]
    async with serve(routes) as client:
        yield client
    await api.close()


def link(page: str, clock: FakeClock, kind: str = "new-badge") -> str:
    return f"/{page}/{CODEC.encode(UnsubscribeToken(TO, kind, clock.now_ms(), 'en'))}"


async def test_further_kind_has_a_switch(client: ClientSession, clock: FakeClock, pool: asyncpg.Pool) -> None:
    """After the built-in kinds, by its own name; a kind that is always sent has none."""
    async with client.get(link("preferences", clock)) as response:
        page = await response.text()
    assert page.index("on.streak-milestone") < page.index("on.new-badge")
    assert "New badge" in page
    assert "receipt" not in page
    form = {"action": "save", "shown": "new-badge,task-reminder", "on.task-reminder": "1"}
    async with client.post(link("preferences", clock), data=form) as response:
        assert response.status == 200
    status = (await Suppressions(pool, clock).status_for([TO]))[TO]
    assert status.unsubscribed == {"new-badge"}


async def test_further_kind_has_the_name_that_its_texts_give_it(client: ClientSession, clock: FakeClock) -> None:
    """On both pages, with the sentence on when it comes; in a language without its texts, the general name."""
    async with client.get(link("preferences", clock)) as response:
        page = await response.text()
    assert "Vouchers" in page
    assert "You get this when you earn a voucher." in page
    async with client.get(link("unsubscribe", clock, "voucher")) as response:
        assert "Unsubscribe from vouchers?" in await response.text()
    async with client.get(link("unsubscribe", clock, "voucher"), headers={"Accept-Language": "fr"}) as response:
        assert "Se désabonner des e-mails de ce type" in await response.text()
    async with client.get(link("unsubscribe", clock)) as response:
        assert "Unsubscribe from emails of this kind?" in await response.text()


async def test_further_kind_can_be_left(client: ClientSession, clock: FakeClock, pool: asyncpg.Pool) -> None:
    """One click leaves it; the link of a kind that is always sent leaves nothing, and says so."""
    one_click = {"List-Unsubscribe": "One-Click"}
    async with client.post(link("unsubscribe", clock), data=one_click) as response:
        assert response.status == 200
    async with client.post(link("unsubscribe", clock, "receipt"), data=one_click) as response:
        assert response.status == 400
    status = (await Suppressions(pool, clock).status_for([TO]))[TO]
    assert status.unsubscribed == {"new-badge"}


async def test_further_kind_in_the_api(client: ClientSession) -> None:
    """It is listed, can be set, and a kind that is always sent is refused with the names of the others."""
    async with client.put(API, json={"kinds": {"new-badge": False}}, headers=BEARER) as response:
        assert (response.status, (await response.json())["preferences"]["kinds"]["new-badge"]) == (200, False)
    async with client.put(API, json={"kinds": {"receipt": False}}, headers=BEARER) as response:
        assert response.status == 422
        assert "new-badge" in await response.text()


async def test_further_kind_is_enqueued_once_for_its_key(client: ClientSession) -> None:
    """Like a built-in kind: its fields are checked, its priority is its own, and a repetition adds nothing."""
    body = {"emails": [BADGE_MAIL], "idempotency_key": "badge-1"}
    async with client.post(EMAILS, json=body, headers=BEARER) as response:
        assert response.status == 201, await response.text()
        [job_id] = (await response.json())["job_ids"]
    async with client.post(EMAILS, json=body, headers=BEARER) as response:
        assert (await response.json()) == {"job_ids": [job_id], "repeated": True}
    async with client.get(f"/api/v1/jobs/{job_id}", headers=BEARER) as response:
        job = await response.json()
    assert (job["name"], job["priority"], job["state"]) == ("new-badge", 10, "wait")
    assert job["data"]["context"] == BADGE_MAIL["context"]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"context": {"points": 5}}, "badgeName"), ({"context": {"badgeName": "x", "points": "many"}}, "points")],
)
async def test_invalid_further_kind_is_refused(client: ClientSession, change: dict[str, object], named: str) -> None:
    """400 with the field, as its worker would refuse it."""
    async with client.post(EMAILS, json={"emails": [BADGE_MAIL | change]}, headers=BEARER) as response:
        assert (response.status, response.content_type) == (400, "application/problem+json")
        assert named in (await response.json())["detail"]


async def test_unknown_kind_names_the_further_ones(client: ClientSession) -> None:
    async with client.post(EMAILS, json={"emails": [BADGE_MAIL | {"kind": "pigeon"}]}, headers=BEARER) as response:
        assert response.status == 400
        assert {"new-badge", "receipt", "otp"} <= set((await response.json())["detail"].replace(",", "").split())

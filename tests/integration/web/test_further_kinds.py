"""The kinds of `mail.kinds_dir` on the pages of recipients and in the API, over a real socket and a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientSession

from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.preferences import PreferenceStore
from flowstate_daemon.database.recipients import Suppressions, UserPreferenceReader
from flowstate_daemon.mail.catalog import Catalog, load_catalog
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeToken
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.preference_view import PreferenceView
from flowstate_daemon.web.preferences import PreferencePage, RecipientReader
from flowstate_daemon.web.unsubscribe import Unsubscribe
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.support.kind_folders import BADGE, write_kind
from tests.support.operator_api import build_operator, build_recipients, serve_api

TO = "ada@example.org"
CODEC = LinkTokenCodec(["a secret of more than thirty-two characters"])
API = f"/recipients/{TO}/preferences"
ALWAYS_SENT = {**BADGE, "kind.toml": BADGE["kind.toml"].replace("unsubscribable = true\n", "")}

NAMED = 'kind_name = "vouchers"\nwhy = "You get this when you earn a voucher."\n'


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    write_kind(tmp_path, "new-badge", BADGE)
    write_kind(tmp_path, "voucher", {**BADGE, "texts/en.toml": NAMED + BADGE["texts/en.toml"]})
    return load_catalog(write_kind(tmp_path, "receipt", ALWAYS_SENT))


@pytest.fixture
async def client(pool: asyncpg.Pool, clock: FakeClock, catalog: Catalog) -> AsyncIterator[ClientSession]:
    store, pages = PreferenceStore(pool, clock), Pages("FlowState", "https://flowstate.example", catalog.page_texts)
    reader = RecipientReader(store, UserPreferenceReader(AppDatabase(pool), clock))
    view = PreferenceView(catalog.unsubscribable, (), "Europe/Paris")
    routes = [
        *PreferencePage(CODEC, reader, view, pages, clock).routes(),
        *Unsubscribe(CODEC, Suppressions(pool, clock), pages, clock, catalog.kinds).routes(),
    ]
    async with serve(routes) as client:
        yield client


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


async def test_further_kind_in_the_api(
    pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock, catalog: Catalog
) -> None:
    """It is listed, can be set, and a kind that is always sent is refused with the names of the others."""
    operator = build_operator(connection, keys, clock, build_recipients(pool, clock))
    operator.reload(Renderer(Brand("hello@flowstate.example", "FlowState", "https://app.example"), catalog=catalog))
    async with serve_api(operator) as api:
        status, document = await api.call("PUT", API, json={"kinds": {"new-badge": False}})
        assert (status, document["preferences"]["kinds"]["new-badge"]) == (200, False)
        status, document = await api.call("PUT", API, json={"kinds": {"receipt": False}})
        assert status == 422
        assert "new-badge" in str(document)

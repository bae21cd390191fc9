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
from flowstate_daemon.mail.catalog import load_catalog
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeToken
from flowstate_daemon.web.auth import BearerAuth
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.preference_view import PreferenceView
from flowstate_daemon.web.preferences import PreferencePage, RecipientReader
from flowstate_daemon.web.recipients_api import RecipientsApi
from flowstate_daemon.web.unsubscribe import Unsubscribe
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.support.kind_folders import BADGE, write_kind

TO = "ada@example.org"
CODEC = LinkTokenCodec(["a secret of more than thirty-two characters"])
BEARER = {"Authorization": f"Bearer {'t' * 40}"}
API = f"/api/v1/recipients/{TO}/preferences"
ALWAYS_SENT = {**BADGE, "kind.toml": BADGE["kind.toml"].replace("unsubscribable = true\n", "")}


@pytest.fixture
async def client(pool: asyncpg.Pool, clock: FakeClock, tmp_path: Path) -> AsyncIterator[ClientSession]:
    write_kind(tmp_path, "new-badge", BADGE)
    catalog = load_catalog(write_kind(tmp_path, "receipt", ALWAYS_SENT))
    store, pages = PreferenceStore(pool, clock), Pages("FlowState", "https://flowstate.example")
    reader = RecipientReader(store, UserPreferenceReader(AppDatabase(pool), clock))
    view = PreferenceView(catalog.unsubscribable, (), "Europe/Paris")
    routes = [
        *PreferencePage(CODEC, reader, view, pages, clock).routes(),
        *Unsubscribe(CODEC, Suppressions(pool, clock), pages, clock, catalog.kinds).routes(),
        *RecipientsApi(BearerAuth(["t" * 40], clock), store, catalog.unsubscribable).routes(),
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

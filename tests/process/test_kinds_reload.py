"""A reload that changes `mail.kinds_dir` reaches everything that knows kinds: pages, API, operator's pages, metrics."""

from __future__ import annotations

import json
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeToken
from tests.process.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.kind_folders import BADGE, write_kind
from tests.support.waiting import eventually

SECRET, TOKEN = "s" * 40, "t" * 40
TO = "ada@example.org"
NAMED = {
    "texts/en.toml": 'kind_name = "badges"\nwhy = "You get this when you earn a badge."\n' + BADGE["texts/en.toml"]
}


class Client:
    """A recipient with the link of an email, and an operator with the token."""

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession) -> None:
        self._root = f"http://127.0.0.1:{daemon.port}"
        self._session = session

    async def page(self, path: str) -> str:
        async with self._session.get(f"{self._root}{path}") as response:
            return await response.text()

    async def post_page(self, path: str, form: dict[str, str]) -> int:
        async with self._session.post(f"{self._root}{path}", data=form) as response:
            return response.status

    async def api(self, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with self._session.request(
            method, f"{self._root}/api/v1{path}", json=document, headers=bearer
        ) as response:
            return response.status, json.loads(await response.text())

    async def log_in(self) -> None:
        assert await self.post_page("/dashboard/login", {"token": TOKEN, "next": ""}) in (200, 303)


def shown(page: str, setting: str) -> tuple[str, str]:
    """Value and source of a setting on the page."""
    row = re.search(rf"{re.escape(setting)}</code></td><td[^>]*>([^<]*)</td><td[^>]*>([^<]*)</td>", page)
    assert row is not None, page
    return row[1], row[2]


async def test_reload_shows_the_new_settings(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """The operator's pages show the settings that are in effect: the name of the product, and the list of all."""
    config = tmp_path / "flowstate.toml"
    config.write_text("")
    jar = aiohttp.CookieJar(unsafe=True)
    settings = {"FLOWSTATE_CONFIG": str(config), "FLOWSTATE_HTTP_API_TOKEN": TOKEN}
    async with make_daemon(**settings) as daemon, aiohttp.ClientSession(cookie_jar=jar) as session:
        await daemon.ready()
        client = Client(daemon, session)
        await client.log_in()
        before = await client.page("/dashboard/system")
        config.write_text('[mail]\napp_name = "Meadow"\n[queue]\nconcurrency = 3\n')
        daemon.send(signal.SIGHUP)
        await eventually(lambda: daemon.events("reloaded"), "reloaded")
        after = await client.page("/dashboard/system")
        assert "· Meadow</title>" in after
        assert shown(after, "mail.app_name") == ("Meadow", f"[mail] app_name in {config}")
        assert shown(after, "queue.concurrency") == shown(before, "queue.concurrency")  # needs a restart


async def test_reload_that_changes_the_folder_reaches_everything(
    make_daemon: MakeDaemon, provider: FakeResend, database_url: str, tmp_path: Path
) -> None:
    """From none to a folder, to a changed one, and back to none; each by SIGHUP, without a restart."""
    config = tmp_path / "flowstate.toml"
    config.write_text("")
    settings = {
        "FLOWSTATE_CONFIG": str(config), "DATABASE_URL": database_url, "FLOWSTATE_HTTP_LINK_SECRET": SECRET,
        "FLOWSTATE_HTTP_API_TOKEN": TOKEN, "FLOWSTATE_HTTP_PUBLIC_URL": "http://127.0.0.1:1",
    }  # fmt: skip
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    link = LinkTokenCodec([SECRET]).encode(UnsubscribeToken(TO, "badge", now_ms, "en"))
    order = {"emails": [{"kind": "badge", "to": TO, "context": {"badgeName": "Early bird", "points": 1}}]}
    folder = write_kind(tmp_path / "kinds", "badge", {**BADGE, **NAMED})
    jar = aiohttp.CookieJar(unsafe=True)  # of a host that is an IP address
    async with make_daemon(**settings) as daemon, aiohttp.ClientSession(cookie_jar=jar) as session:
        await daemon.ready()
        client = Client(daemon, session)
        await client.log_in()

        async def reload(text: str, count: int) -> None:
            config.write_text(text)
            daemon.send(signal.SIGHUP)
            await eventually(lambda: len(daemon.events("reloaded")) == count, "reloaded")

        async def counted(outcome: str) -> None:
            async def is_counted() -> bool:
                return f'flowstate_mails_total{{kind="badge",outcome="{outcome}"}} 1.0' in await client.page("/metrics")

            await eventually(is_counted, outcome)

        assert "on.badge" not in await client.page(f"/preferences/{link}")
        assert "<option>badge</option>" not in await client.page("/dashboard/emails")
        assert (await client.api("POST", "/emails", order))[0] == 400

        await reload(f'[mail]\nkinds_dir = "{folder}"\n', 1)
        preferences = await client.page(f"/preferences/{link}")
        assert "on.badge" in preferences
        assert "You get this when you earn a badge." in preferences
        assert "Unsubscribe from badges?" in await client.page(f"/unsubscribe/{link}")
        assert "<option>badge</option>" in await client.page("/dashboard/emails")
        kinds = (await client.api("GET", f"/recipients/{TO}/preferences"))[1]["preferences"]["kinds"]
        assert "badge" in kinds
        assert (await client.api("POST", "/emails", order))[0] == 201
        await eventually(lambda: len(provider.accepted) == 1, "sent")
        await counted("sent")
        assert await client.post_page(f"/unsubscribe/{link}", {"List-Unsubscribe": "One-Click"}) == 200
        assert (await client.api("POST", "/emails", order))[0] == 201
        await counted("skipped")

        always = BADGE["kind.toml"].replace("unsubscribable = true\n", "")
        write_kind(folder, "badge", {"kind.toml": always})
        await reload(f'[mail]\nkinds_dir = "{folder}"\n', 2)
        assert "on.badge" not in await client.page(f"/preferences/{link}")
        assert await client.post_page(f"/unsubscribe/{link}", {"List-Unsubscribe": "One-Click"}) == 400
        kinds = (await client.api("GET", f"/recipients/{TO}/preferences"))[1]["preferences"]["kinds"]
        assert "badge" not in kinds

        await reload("", 3)
        assert "<option>badge</option>" not in await client.page("/dashboard/emails")
        assert (await client.api("POST", "/emails", order))[0] == 400
    assert [mail.subject for mail in provider.accepted] == ["New badge: Early bird"]

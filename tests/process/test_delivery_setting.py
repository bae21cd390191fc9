"""Without an API key `run` refuses to start; delivery to the outbox is asked for by name, and said each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.systemd import NotifyListener
from tests.support.waiting import eventually


@pytest.mark.parametrize("key", ["", "  "])
async def test_run_refuses_to_start_without_a_key(make_daemon: MakeDaemon, key: str) -> None:
    """The exit code is that of an invalid configuration, and the message names the setting and the other choice."""
    async with make_daemon(RESEND_API_KEY=key) as daemon:
        assert await daemon.ended() == 78
        assert "RESEND_API_KEY: missing" in daemon.log_text()
        assert "FLOWSTATE_DELIVERY=outbox" in daemon.log_text()


async def test_run_refuses_a_misspelt_credential(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """The file is there, and its name is nearly right."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "resend_apikey").write_text("re_geheim")
    async with make_daemon(RESEND_API_KEY="", CREDENTIALS_DIRECTORY=str(folder)) as daemon:
        assert await daemon.ended() == 78
        assert "did you mean resend_api_key?" in daemon.log_text()
        assert "geheim" not in daemon.log_text()


async def test_outbox_is_named_in_every_place(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, tmp_path: Path
) -> None:
    """Log, status line and ready's body say that nothing is sent, although there is a key."""
    outbox = tmp_path / "outbox"
    with NotifyListener(tmp_path) as systemd:
        settings = {"FLOWSTATE_DELIVERY": "outbox", "FLOWSTATE_OUTBOX_FOLDER": str(outbox)}
        async with make_daemon(NOTIFY_SOCKET=systemd.address, **settings) as daemon:
            await systemd.until("READY", "1")
            assert systemd.values("STATUS")[-1].startswith("outbox, sends nothing")
            status, body = await daemon.look("/health/ready")
            assert (status, json.loads(body)["delivery"]) == (200, "outbox")
            assert "outbox" in json.loads(body)["warnings"][0]
            assert [event["remedy"] for event in daemon.events("risk_found") if event["risk"] == "delivery"]
            await enqueue(connection, keys, 1)
            await eventually(lambda: outbox.is_dir() and list(outbox.glob("*.eml")), "one email in the outbox")
    assert provider.accepted == []

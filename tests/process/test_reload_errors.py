"""A reload that fails names each setting and what is wrong with it, and never shows a value."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.process.conftest import MakeDaemon
from tests.support.waiting import eventually

GOOD, VALUE = "q7Wk39" * 8, "hunter2"


async def test_reload_with_wrong_secrets_says_which_and_why(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """In the log and in the health document: a secret that is invalid, one that is empty, and one that is gone."""
    files = {name: tmp_path / name for name in ("HTTP_API_TOKEN", "HTTP_LINK_SECRET", "HTTP_READ_TOKEN")}
    for number, file in enumerate(files.values()):
        file.write_text(f"{GOOD}{number}")
    config = tmp_path / "daemon.toml"
    config.write_text("")
    settings = {f"FLOWSTATE_{name}_FILE": str(file) for name, file in files.items()}
    async with make_daemon(FLOWSTATE_CONFIG=str(config), **settings) as daemon:
        await daemon.ready()
        files["HTTP_API_TOKEN"].write_text(VALUE)
        files["HTTP_LINK_SECRET"].write_text("")
        files["HTTP_READ_TOKEN"].unlink()
        config.write_text(f'[resend]\nwebhook_secret = "{VALUE} {VALUE}"\n')
        daemon.send(signal.SIGHUP)
        await eventually(lambda: daemon.events("reload_failed"), "the reload is refused")
        (event,) = daemon.events("reload_failed")
        status, health = await daemon.look("/health/ready")
        assert status == 200
    shown = "\n".join(event["errors"])
    for part in (
        "FLOWSTATE_HTTP_API_TOKEN_FILE: must have 32 characters or more",
        "HTTP_LINK_SECRET is empty; expected a file with the value alone",
        "HTTP_READ_TOKEN - No such file or directory",
        "[resend] webhook_secret in",
        "must be like whsec_",
    ):
        assert part in shown, shown
    assert VALUE not in json.dumps([event, health])
    assert "redacted" not in shown

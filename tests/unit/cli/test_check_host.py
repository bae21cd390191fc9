"""The checks of the configuration and this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowstate_daemon.cli.check.host import evaluate_mode, evaluate_outbox_folder, evaluate_settings
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.config.loader import load

SENDER = {"RESEND_FROM_EMAIL": "hello@example.com", "RESEND_API_KEY": "re_key"}


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({"FLOWSTATE_DELIVERY": "outbox"}, Level.OK),
        ({"FLOWSTATE_MODE": "shadow"}, Level.OK),
        ({"FRONTEND_URL": "https://flowstate.example"}, Level.OK),
        ({}, Level.WARN),
    ],
)
def test_links_to_localhost_warn_when_emails_are_sent(environment: dict[str, str], level: Level) -> None:
    """The default of FRONTEND_URL is correct only on a developer's machine."""
    results = evaluate_settings(load({**SENDER, **environment}, sending=True))
    assert ({result.level for result in results if result.name == "links"} or {Level.OK}) == {level}


def test_shadow_mode_warns() -> None:
    """The message says that nothing is sent."""
    assert evaluate_mode(load(SENDER, sending=True)).level is Level.OK
    result = evaluate_mode(load({**SENDER, "FLOWSTATE_MODE": "shadow"}, sending=True))
    assert result.level is Level.WARN
    assert "sends nothing" in result.message


def test_outbox_folder_that_can_be_created_is_ok(tmp_path: Path) -> None:
    """The folder is created with the first email, so its parent is checked."""
    assert evaluate_outbox_folder(tmp_path / "new" / "outbox").level is Level.OK


def test_outbox_folder_below_a_file_fails(tmp_path: Path) -> None:
    """No email could be written there; the remedy names the setting."""
    (tmp_path / "file").write_text("")
    result = evaluate_outbox_folder(tmp_path / "file" / "outbox")
    assert result.level is Level.FAIL
    assert "FLOWSTATE_OUTBOX_FOLDER" in result.remedy

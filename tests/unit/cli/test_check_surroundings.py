"""What `check` makes of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowstate_daemon.cli.check.host import evaluate_links, evaluate_mode, evaluate_outbox_folder
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.config.loader import load

SENDER = {"RESEND_FROM_EMAIL": "hello@example.com"}


@pytest.mark.parametrize(
    ("environment", "grade"),
    [
        ({}, Level.OK),
        ({"RESEND_API_KEY": "re_key", "FRONTEND_URL": "https://flowstate.example"}, Level.OK),
        ({"RESEND_API_KEY": "re_key"}, Level.WARN),
    ],
)
def test_real_mails_with_links_to_localhost_are_worth_a_warning(environment: dict[str, str], grade: Level) -> None:
    """The default of FRONTEND_URL is right on a developer's machine only."""
    assert evaluate_links(load({**SENDER, **environment}, sending=True)).grade is grade


def test_the_mode_is_told() -> None:
    """Nobody wonders why a shadow sends nothing."""
    assert evaluate_mode(load(SENDER, sending=True)).grade is Level.OK
    result = evaluate_mode(load({**SENDER, "FLOWSTATE_MODE": "shadow"}, sending=True))
    assert result.grade is Level.WARN
    assert "sends nothing" in result.message


def test_an_outbox_that_can_be_made_will_do(tmp_path: Path) -> None:
    """The folder is made with the first mail; what counts is the folder above it."""
    assert evaluate_outbox_folder(tmp_path / "new" / "outbox").grade is Level.OK


def test_an_outbox_behind_a_file_will_not_do(tmp_path: Path) -> None:
    """No mail could be written there, and the remedy names the setting."""
    (tmp_path / "file").write_text("")
    result = evaluate_outbox_folder(tmp_path / "file" / "outbox")
    assert result.grade is Level.FAIL
    assert "FLOWSTATE_OUTBOX_FOLDER" in result.remedy

"""What `check` makes of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowstate_daemon.base.config import load
from flowstate_daemon.cli.check_surroundings import judge_folder, judge_links, judge_mode
from flowstate_daemon.cli.verdict import Grade

SENDER = {"RESEND_FROM_EMAIL": "hello@example.com"}


@pytest.mark.parametrize(
    ("environment", "grade"),
    [
        ({}, Grade.OK),
        ({"RESEND_API_KEY": "re_key", "FRONTEND_URL": "https://flowstate.example"}, Grade.OK),
        ({"RESEND_API_KEY": "re_key"}, Grade.WARN),
    ],
)
def test_real_mails_with_links_to_localhost_are_worth_a_warning(environment: dict[str, str], grade: Grade) -> None:
    """The default of FRONTEND_URL is right on a developer's machine only."""
    assert judge_links(load({**SENDER, **environment}, sending=True)).grade is grade


def test_the_mode_is_told() -> None:
    """Nobody wonders why a shadow sends nothing."""
    assert judge_mode(load(SENDER, sending=True)).grade is Grade.OK
    verdict = judge_mode(load({**SENDER, "FLOWSTATE_MODE": "shadow"}, sending=True))
    assert verdict.grade is Grade.WARN
    assert "sends nothing" in verdict.finding


def test_an_outbox_that_can_be_made_will_do(tmp_path: Path) -> None:
    """The folder is made with the first mail; what counts is the folder above it."""
    assert judge_folder(tmp_path / "new" / "outbox").grade is Grade.OK


def test_an_outbox_behind_a_file_will_not_do(tmp_path: Path) -> None:
    """No mail could be written there, and the remedy names the setting."""
    (tmp_path / "file").write_text("")
    verdict = judge_folder(tmp_path / "file" / "outbox")
    assert verdict.grade is Grade.FAIL
    assert "FLOWSTATE_OUTBOX_FOLDER" in verdict.remedy

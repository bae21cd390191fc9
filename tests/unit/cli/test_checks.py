"""What `check` makes of what it has found."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.config import load
from flowstate_daemon.cli.checks import Grade, judge_links

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

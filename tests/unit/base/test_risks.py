"""Settings that are valid, and with which emails go wrong."""

from __future__ import annotations

import pytest

from flowstate_daemon.config.loader import load
from flowstate_daemon.config.risks import describe_schedules, find_risks
from tests.support.svix import SECRET

SENDING = {"RESEND_FROM_EMAIL": "hello@example.com", "RESEND_API_KEY": "re_key"}
GOOD = {
    **SENDING,
    "FRONTEND_URL": "https://app.example.com",
    "FLOWSTATE_HTTP_PUBLIC_URL": "https://mail.example.com",
    "DATABASE_URL": "postgresql://a@b/c",
    "FLOWSTATE_RESEND_WEBHOOK_SECRET": SECRET,
}


@pytest.mark.parametrize(
    ("changes", "name", "affects_mails"),
    [
        ({"FRONTEND_URL": ""}, "links", True),
        ({"FRONTEND_URL": "http://127.0.0.1:4200"}, "links", True),
        ({"FRONTEND_URL": "http://127.1.2.3"}, "links", True),
        ({"FRONTEND_URL": "http://[::1]:4200"}, "links", True),
        ({"FRONTEND_URL": "http://app.localhost"}, "links", True),
        ({"FRONTEND_URL": "https://LOCALHOST./app"}, "links", True),
        ({"FLOWSTATE_HTTP_PUBLIC_URL": "http://mail.example.com"}, "unsubscribe links", True),
        ({"FLOWSTATE_HTTP_PUBLIC_URL": "https://localhost:8080"}, "unsubscribe links", True),
        ({"FLOWSTATE_RESEND_WEBHOOK_SECRET": ""}, "webhooks", False),
        ({"FLOWSTATE_DELIVERY": "outbox"}, "delivery", True),
    ],
)
def test_each_risk_is_found(changes: dict[str, str], name: str, affects_mails: bool) -> None:
    """One at a time, with a remedy that names a setting."""
    [risk] = find_risks(load({**GOOD, **changes}, sending=True))
    assert (risk.name, risk.affects_mails) == (name, affects_mails)
    assert any(word in risk.remedy for word in ("FRONTEND_URL", "FLOWSTATE_"))


def test_good_settings_have_no_risk() -> None:
    """Nor have those of another kind of set-up: without Postgres there are no webhooks, in shadow mode no links."""
    assert find_risks(load(GOOD, sending=True)) == []
    assert find_risks(load({**SENDING, "FRONTEND_URL": "https://localhost.example.com"}, sending=True)) == []
    assert find_risks(load({**SENDING, "FLOWSTATE_MODE": "shadow"}, sending=True)) == []
    dev = load({**SENDING, "FLOWSTATE_DELIVERY": "outbox"}, sending=True).model_copy(update={"is_dev": True})
    assert find_risks(dev) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "on: task-reminder, overdue-summary, focus-report; the backend's cron jobs must be off"),
        ({"FLOWSTATE_SCHEDULE_FOCUS_REPORT": "false"}, "on: task-reminder, overdue-summary; "),
        (
            {"FLOWSTATE_SCHEDULE_ENABLED": "false"},
            "off: schedule.enabled is false, so the backend's cron jobs must be on",
        ),
        ({"DATABASE_URL": ""}, "off: they need DATABASE_URL"),
        ({"FLOWSTATE_MODE": "shadow"}, "off: shadow mode"),
        (
            {f"FLOWSTATE_SCHEDULE_{kind}": "0" for kind in ("TASK_REMINDER", "OVERDUE_SUMMARY", "FOCUS_REPORT")},
            "off: every kind is disabled",
        ),
    ],
)
def test_one_line_says_whether_schedules_are_on(changes: dict[str, str], text: str) -> None:
    """Either the daemon or the backend sends them: with both or none, people get two emails or none."""
    assert describe_schedules(load({**GOOD, **changes}, sending=True)).startswith(text)

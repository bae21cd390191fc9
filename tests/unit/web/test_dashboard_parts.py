"""Pure parts of the operator's pages: charts, calendar, states, audit rows, origins."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest

from flowstate_daemon.database.mail_list import EventCount
from flowstate_daemon.operations.operator import Reputation
from flowstate_daemon.queue.audit import OperatorAction
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.server_info import ClientInfo
from flowstate_daemon.scheduler.manual_runs import UpcomingRun
from flowstate_daemon.web.dashboard.charts import Line, line_chart, nice_ceiling
from flowstate_daemon.web.dashboard.guard import Part, safe_next
from flowstate_daemon.web.dashboard.now import health_state
from flowstate_daemon.web.dashboard.rendering import localise_number, split_remedy, state_class
from flowstate_daemon.web.dashboard.schedules import build_calendar
from flowstate_daemon.web.dashboard.state import complaint_rates, describe_worker, merge_actions, newest_event
from flowstate_daemon.web.session import Sessions
from tests.support.clock import FakeClock


def test_templates_leave_the_colon_to_the_language() -> None:
    """French has a space in front of it."""
    templates = (files("flowstate_daemon.web.dashboard") / "templates").iterdir()
    literal = re.compile(r"[}%]}: ")
    assert [file.name for file in templates if literal.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("problems", "snapshot", "limit", "state"),
    [
        ([], Part(SimpleNamespace(is_paused=False)), Part(SimpleNamespace(state="accepting")), "healthy"),
        ([], Part(SimpleNamespace(is_paused=True)), Part(SimpleNamespace(state="accepting")), "paused"),
        ([], Part(SimpleNamespace(is_paused=True)), Part(SimpleNamespace(state="refused")), "blocked"),
        ([], Part(SimpleNamespace(is_paused=False)), Part(error="timeout"), "healthy"),
        ([], Part(error="timeout"), Part(error="timeout"), "unknown"),
        ([("dispatcher", "no progress")], Part(error="timeout"), Part(), "not_ready"),
    ],
)
def test_worst_state_is_shown(problems: list[str], snapshot: Part, limit: Part, state: str) -> None:
    """A page never says healthy while something stops emails, or while it does not know."""
    assert health_state(problems, snapshot, limit) == state


def test_calendar_has_the_local_dates_and_times_of_each_zone() -> None:
    """One instant is different days in Auckland and New York; chosen hours of one zone share a cell."""
    at = datetime(2026, 3, 2, 20, 0, tzinfo=UTC)
    later = datetime(2026, 3, 3, 20, 0, tzinfo=UTC)
    calendar = build_calendar(
        [
            UpcomingRun("task-reminder", at, ("America/New_York", "Pacific/Auckland")),
            UpcomingRun("task-reminder", later, ("Pacific/Auckland",)),
            UpcomingRun("task-reminder", later.replace(hour=22), ("Pacific/Auckland 11",)),
            UpcomingRun("focus-report", at, ("Mars/Olympus",)),
        ]
    )
    assert calendar.days == (date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 4))
    assert [(row.kind, row.zone, row.times) for row in calendar.rows] == [
        ("focus-report", "Mars/Olympus", ("20:00", "", "")),
        ("task-reminder", "America/New_York", ("15:00", "", "")),
        ("task-reminder", "Pacific/Auckland", ("", "09:00", "09:00, 11:00")),
    ]
    assert build_calendar([]).rows == ()


def test_chart_says_its_values_and_escapes_its_texts() -> None:
    """The text alternative has the last and the highest value; missing values cut the line."""
    chart = line_chart(
        "<b>Latency</b>",
        ("an hour ago", "now"),
        [Line('p50"', "urgent", [0.5, None, 2.5, 1.25])],
        unit=" s",
        decimal=",",
    )
    assert 'aria-label="&lt;b&gt;Latency&lt;/b&gt;. p50&#34;: 1,25 s, max. 2,5 s"' in chart.svg
    assert chart.svg.count("<polyline") == 2
    assert "<b>" not in chart.svg
    assert "style" not in chart.svg
    empty = line_chart("Sent", (), [Line("sent", "sent", [None, None])])
    assert "polyline" not in empty.svg
    assert "\N{EN DASH}" in empty.svg


@pytest.mark.parametrize(("value", "ceiling"), [(0, 1), (0.3, 0.5), (1, 1), (1.01, 2), (839, 1000), (2001, 5000)])
def test_axis_ends_at_a_round_number(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_workers_are_named_as_operators_know_them() -> None:
    keys = Keys("bull", "email")
    daemon = ClientInfo(f"{keys.client_name}:mail-1/{'a' * 32}", "127.0.0.1:1", 7, 0)
    bull = ClientInfo(keys.client_name, "127.0.0.1:2", 8, 0)
    named = [(one.name, one.is_daemon) for one in (describe_worker(daemon, keys), describe_worker(bull, keys))]
    assert named == [("mail-1", True), (keys.client_name, False)]


def test_actions_of_both_stores_are_in_the_order_of_time() -> None:
    """Addresses stay apart, so that they can be masked; a store that is away leaves the other's actions."""
    queue = Part([OperatorAction(2_000, "cli", "queue pause", "bull:email", 1)])
    lists = Part(
        [
            SimpleNamespace(
                at=datetime.fromtimestamp(at, UTC), actor="page", action="suppression add", target="a@b.org", count=1
            )
            for at in (1, 3)
        ]
    )
    rows = merge_actions(queue, lists)
    assert [(row.action, row.target, row.address) for row in rows] == [
        ("suppression add", "", "a@b.org"),
        ("queue pause", "bull:email", ""),
        ("suppression add", "", "a@b.org"),
    ]
    assert [row.action for row in merge_actions(Part(error="away"), lists)] == ["suppression add"] * 2
    assert merge_actions(Part(error="away"), None) == []


def test_rates_need_both_counts() -> None:
    events = [
        EventCount("bounced", 3, datetime(2026, 3, 1, tzinfo=UTC)),
        EventCount("complained", 1, datetime(2026, 3, 2, tzinfo=UTC)),
    ]
    found = Part(Reputation(events, {"sent": 1000}))
    assert complaint_rates(found) == {"bounced": 0.003, "complained": 0.001}
    assert complaint_rates(Part(Reputation(events, {"sent": 0}))) == complaint_rates(Part(error="x")) == {}
    assert newest_event(found) == datetime(2026, 3, 2, tzinfo=UTC)
    assert newest_event(Part(error="x")) is newest_event(None) is None


def test_states_and_reasons_for_people() -> None:
    assert [state_class(name) for name in ("sent", "bounced", "expired", "wait", None)] == [
        "good",
        "bad",
        "warn",
        "",
        "",
    ]
    assert split_remedy("dispatcher: key refused; set the key") == ("dispatcher: key refused", "set the key")
    assert split_remedy("stuck") == ("stuck", "")
    assert (localise_number("1.5 s", "fr"), localise_number("1.5 s", "en")) == ("1,5 s", "1.5 s")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://127.0.0.1:8080", True),
        ("https://mail.example.org", True),
        ("http://127.0.0.1:3000", False),
        ("http://localhost:8080", False),
        ("null", False),
        ("", False),
        ("https://evil.example", False),
        ("https://mail.example.org.evil.example", False),
        ("http://[", False),
    ],
)
def test_forms_of_other_origins_are_refused(clock: FakeClock, origin: str | None, allowed: bool) -> None:
    """Another port of this machine shares its cookies, but is another page."""
    sessions = Sessions([], clock, secure=False, hosts=("mail.example.org",))
    headers = {"Host": "127.0.0.1:8080"} | ({} if origin is None else {"Origin": origin})
    request: Any = SimpleNamespace(headers=headers)
    assert sessions.allows_origin(request) is allowed


@pytest.mark.parametrize("path", ["//evil.example/dashboard/", "/dashboard//x", "https://evil.example", "/x", "\\", ""])
def test_redirects_stay_inside(path: str) -> None:
    assert safe_next(path) == "/dashboard/"
    assert safe_next("/dashboard/emails?state=failed") == "/dashboard/emails?state=failed"

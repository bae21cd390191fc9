"""When a repeatable job occurs next. `cron_by_bull.jsonl` holds what cron-parser 4.9 (of npm bull) answered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.repeat import next_occurrence, parse_cron, parse_instant, parse_zone

BY_BULL = [json.loads(line) for line in (Path(__file__).parent / "cron_by_bull.jsonl").read_text().splitlines()]
PARIS = ZoneInfo("Europe/Paris")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def series(cron: str, zone: str, start: str, length: int) -> list[str]:
    """The first occurrences after `start`, on the zone's own clock."""
    found, at_ms = [], ms(start)
    for _ in range(length):
        at_ms = next_occurrence(parse_cron(cron), ZoneInfo(zone), at_ms)
        found.append(datetime.fromtimestamp(at_ms / 1000, tz=ZoneInfo(zone)).isoformat())
    return found


@pytest.mark.parametrize("case", BY_BULL, ids=lambda case: f"{case['cron']} {case['zone']}")
def test_node_and_we_agree(case: dict[str, Any]) -> None:
    """The next occurrence is the one that a node worker computes from the same instant, DST days included."""
    cron, zone = parse_cron(case["cron"]), ZoneInfo(case["zone"])
    assert [[base, next_occurrence(cron, zone, base)] for base, _ in case["next"]] == case["next"]


def test_autumn_wall_time_counts_once() -> None:
    """A daily 02:30 does not run again when the clock shows 02:30 a second time."""
    assert series("30 2 * * *", "Europe/Paris", "2026-10-24T12:00Z", 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


def test_autumn_hour_passes_twice_for_each_hour() -> None:
    """A job of every half hour runs in both of autumn's hours: time does pass."""
    assert series("*/30 * * * *", "Europe/Paris", "2026-10-25T00:00Z", 4) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ]


def test_spring_missing_wall_time_counts_once() -> None:
    """A daily 02:30 runs once on the day that has none, an hour later."""
    assert series("30 2 * * *", "Europe/Paris", "2027-03-27T12:00Z", 2) == [
        "2027-03-28T03:30:00+02:00",
        "2027-03-29T02:30:00+02:00",
    ]


def test_spring_missing_wall_time_is_still_to_come_right_after_the_gap() -> None:
    """Asked at 03:10 of that day, 02:30 has not been yet."""
    assert series("30 2 * * *", "Europe/Paris", "2027-03-28T01:10Z", 1) == ["2027-03-28T03:30:00+02:00"]


def test_midnight_gap_does_not_lose_the_day() -> None:
    """Where the clock jumps from 00:00 to 01:00, a daily midnight job runs at 01:00."""
    assert series("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00Z", 2) == [
        "2018-11-04T01:00:00-02:00",
        "2018-11-05T00:00:00-02:00",
    ]


@given(st.integers(ms("2026-01-01T00:00Z"), ms("2028-01-01T00:00Z")), st.sampled_from(BY_BULL))
def test_an_occurrence_lies_ahead(base_ms: int, case: dict[str, Any]) -> None:
    """Whenever asked, the answer is later than the question, and no whole second between both would do as well."""
    cron, zone = parse_cron(case["cron"]), ZoneInfo(case["zone"])
    at_ms = next_occurrence(cron, zone, base_ms)
    assert at_ms > base_ms
    assert next_occurrence(cron, zone, at_ms - 1) == at_ms


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("0 9 * * *", "0 0 9 * * *"),
        ("  30 0   9 * * * ", "30 0 9 * * *"),
        ("9 * * *", "0 * 9 * * *"),
        ("@daily", "0 0 0 * * *"),
        ("0 0 1-1 * *", "0 0 0 1 * *"),
        ("0 0 11-11/3 * *", "0 0 0 11 * *"),
        ("0 0 1-10 * *", "0 0 0 1-10 * *"),
        ("0 0 * * 5L", "0 0 0 * * L5"),
    ],
)
def test_expressions_are_read_as_node_reads_them(text: str, read: str) -> None:
    """Missing leading fields are filled in, and what croniter would understand otherwise is rewritten."""
    assert parse_cron(text) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "* * * * * * *",
        "0 0 * * R",
        "H * * * *",
        "61 * * * *",
        "@reboot",
        5,
        None,
        ["*"],
        "0 9 15W * *",
    ],
)
def test_what_is_no_expression_is_refused(text: object) -> None:
    """Nonsense, and extensions that node does not know, are malformed."""
    with pytest.raises(InvalidDataError):
        parse_cron(text)


def test_a_day_that_never_comes_is_refused() -> None:
    """30 February ends the search instead of going on for ever."""
    with pytest.raises(InvalidDataError):
        next_occurrence(parse_cron("0 0 30 2 *"), UTC, ms("2026-01-01T00:00Z"))


@given(st.text(max_size=20) | st.from_regex(r"[0-9*/,?#Lw-]{1,4}( [0-9*/,?#Lsunmar-]{1,4}){1,5}", fullmatch=True))
def test_reading_raises_nothing_else(text: str) -> None:
    """Any text is an expression, a zone, a date, or malformed."""
    for read in (parse_cron, lambda value: parse_zone(value, UTC), lambda value: parse_instant(value, "x", UTC)):
        try:
            read(text)
        except InvalidDataError:
            continue


def test_zones() -> None:
    """A named zone is taken, an absent one is the local one."""
    assert parse_zone("Europe/Paris", UTC) == PARIS
    assert parse_zone("utc", PARIS) == UTC
    assert parse_zone(None, PARIS) == PARIS
    for wrong in ("Mars/Olympus", "../etc/passwd", 7):
        with pytest.raises(InvalidDataError):
            parse_zone(wrong, UTC)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (1792739554567, 1792739554567),
        (1792739554567.9, 1792739554567),
        ("2026-10-24", ms("2026-10-24T00:00Z")),
        ("2026-10-24T08:00:00.000Z", ms("2026-10-24T08:00Z")),
        ("2026-10-24T08:00:00", ms("2026-10-24T06:00Z")),
    ],
)
def test_dates_are_read_as_node_reads_them(value: object, read: int) -> None:
    """Numbers are ms, a mere day begins in UTC, a time without zone is local."""
    assert parse_instant(value, "endDate", PARIS) == read


@pytest.mark.parametrize("value", ["soon", True, [], {}, float("inf"), 10**30, "2026-13-01"])
def test_what_is_no_date_is_refused(value: object) -> None:
    """Anything else is malformed."""
    with pytest.raises(InvalidDataError):
        parse_instant(value, "endDate", UTC)


def test_an_endless_cron_expression_is_refused_unread() -> None:
    """Every claim of such a job would otherwise hold the event loop for seconds."""
    with pytest.raises(InvalidDataError, match="longer"):
        parse_cron("1," * 50_000 + "1 * * * *")

"""The successor of a repeatable job. `repeats_by_bull.jsonl` holds what npm bull 4.16.5 wrote, job after job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.job import Job, JobOptions
from flowstate_daemon.queue.repeat import next_job, repeat_job_id, repeat_key

BY_BULL = [json.loads(line) for line in (Path(__file__).parent / "repeats_by_bull.jsonl").read_text().splitlines()]
NOW = 1792739554567


def repeatable(opts: dict[str, Any], name: str = "report") -> Job:
    options = JobOptions(repeat=opts.get("repeat"), raw=opts)
    return Job("1", name, b"{}", options, NOW, 0, 0, b"[]")


@pytest.mark.parametrize("case", BY_BULL, ids=lambda case: f"{case['name']} {case['now']}")
def test_node_and_we_write_the_same_successor(case: dict[str, Any]) -> None:
    """From the options that node stored, we make the job that node makes: id, instant and options."""
    successor = next_job(repeatable(json.loads(case["opts"]), case["name"]), case["now"])
    if case["next"] is None:
        assert successor is None
        return
    assert successor is not None
    assert (successor.id, successor.key, successor.at_ms) == tuple(case["next"][part] for part in ("id", "key", "at"))
    assert json.loads(successor.options) == json.loads(case["next"]["opts"])


@pytest.mark.parametrize(
    "case", [case for case in BY_BULL if case["next"]], ids=lambda case: f"{case['name']} {case['now']}"
)
def test_node_and_we_compute_the_same_key(case: dict[str, Any]) -> None:
    """Also without the key that node left in the options, key and id come out the same."""
    repeat = json.loads(case["opts"])["repeat"]
    custom_id = str(repeat.get("jobId", ""))
    key = repeat_key(case["name"], repeat, custom_id)
    assert key == case["next"]["key"]
    assert repeat_job_id(case["name"], custom_id, key, case["next"]["at"]) == case["next"]["id"]


def test_the_producers_first_job_lends_its_id() -> None:
    """A job without prevMillis hands its own id option on to the definition, as Bull's add does."""
    successor = next_job(repeatable({"jobId": "mine", "repeat": {"every": 1000}}), NOW)
    assert successor is not None
    assert successor.key == "report:mine::1000"


def test_unknown_options_pass_through() -> None:
    """What we do not know of the options reaches the successor unchanged."""
    successor = next_job(repeatable({"repeat": {"every": 1000, "x": [1]}, "y": {"z": None}}), NOW)
    assert successor is not None
    options = json.loads(successor.options)
    assert options["repeat"]["x"] == [1]
    assert options["y"] == {"z": None}


@pytest.mark.parametrize(
    "repeat",
    [
        {},
        {"every": 0},
        {"every": -5},
        {"every": 1.5},
        {"every": "1000"},
        {"every": True},
        {"every": 1000, "cron": "* * * * *"},
        {"cron": "nonsense"},
        {"cron": "0 9 * * *", "tz": "Mars/Olympus"},
        {"cron": "0 0 30 2 *"},
        {"every": 1000, "limit": "3"},
        {"every": 1000, "count": "x"},
        {"every": 1000, "key": 7},
        {"every": 1000, "endDate": "never"},
        {"every": 1000, "endDate": []},
        {"cron": "0 9 * * *", "startDate": {}},
        {"every": 10**30},
    ],
)
def test_a_wrong_definition_is_malformed(repeat: dict[str, Any]) -> None:
    """A definition that no worker could follow says why; nothing else is raised."""
    with pytest.raises(InvalidDataError):
        next_job(repeatable({"repeat": repeat, "prevMillis": NOW}), NOW)


@pytest.mark.parametrize("previous", [None, "x", [], float("inf"), 10**400])
def test_a_wrong_prev_millis_counts_as_none(previous: object) -> None:
    """Without a usable `prevMillis` the next occurrence follows the present."""
    successor = next_job(repeatable({"repeat": {"every": 60000}, "prevMillis": previous}), NOW)
    assert successor is not None
    assert 0 < successor.at_ms - NOW <= 60000

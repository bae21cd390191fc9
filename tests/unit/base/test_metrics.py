"""Numbers get where they belong, and strangers cannot add series."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.metrics import PROVIDER_RESULTS, Metrics
from flowstate_daemon.delivery.responses import ResultClass

KINDS = ("otp", "welcome")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(KINDS, version="1.2.3", instance="vm-1")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"flowstate_{name}", labels)


def series(metrics: Metrics) -> int:
    """How many series of ours there are; those about the process come and go with the system."""
    return sum(len(metric.samples) for metric in metrics.registry.collect() if metric.name[:4] == "flow")


@pytest.mark.parametrize("ending", ["skipped", "retried", "failed", "released"])
def test_each_ending_is_counted_by_kind(metrics: Metrics, ending: str) -> None:
    """An ending counts for its kind and for no other."""
    getattr(metrics, f"mail_{ending}")("otp")
    assert value(metrics, "mails_total", kind="otp", ending=ending) == 1
    assert value(metrics, "mails_total", kind="welcome", ending=ending) == 0


def test_a_sent_mail_is_counted_and_timed(metrics: Metrics) -> None:
    """One call gives the count and the time."""
    metrics.mail_sent("otp", 0.07)
    assert value(metrics, "mails_total", kind="otp", ending="sent") == 1
    assert value(metrics, "mail_send_seconds_bucket", kind="otp", le="0.1") == 1
    assert value(metrics, "mail_send_seconds_bucket", kind="otp", le="0.05") == 0


def test_a_wait_is_never_negative(metrics: Metrics) -> None:
    """A producer's clock that runs ahead does not make the sum shrink."""
    metrics.observe_mail_latency("otp", -3.0)
    assert value(metrics, "mail_wait_seconds_sum", kind="otp") == 0
    assert value(metrics, "mail_wait_seconds_count", kind="otp") == 1


@given(st.lists(st.text(), max_size=20))
def test_hostile_names_add_no_series(names: list[str]) -> None:
    """Whatever job names and answers arrive, the number of series stays what it was at the start."""
    metrics = Metrics(KINDS)
    before = series(metrics)
    for name in names:
        metrics.mail_sent(name, 0.1)
        metrics.mail_failed(name)
        metrics.mail_retried(name)
        metrics.observe_mail_latency(name, 1.0)
        metrics.observe_provider_request(name, 0.1)
    assert series(metrics) == before
    foreign_workers = len([name for name in names if name not in KINDS])
    assert value(metrics, "mails_total", kind="other", ending="failed") == foreign_workers


def test_the_engine_reports_land(metrics: Metrics) -> None:
    """Each typed method moves its own number."""
    metrics.jobs_claimed(100)
    metrics.locks_lost(2)
    metrics.jobs_recovered(3)
    metrics.jobs_stalled(4)
    metrics.track_jobs_in_flight(lambda: 7)
    metrics.observe_redis_command(0.002)
    metrics.observe_event_loop_lag(0.2)
    assert value(metrics, "jobs_claimed_total") == 100
    assert value(metrics, "locks_lost_total") == 2
    assert value(metrics, "jobs_recovered_total") == 3
    assert value(metrics, "jobs_stalled_total") == 4
    assert value(metrics, "slots_busy") == 7
    assert value(metrics, "redis_round_trip_seconds_count") == 1
    assert value(metrics, "loop_lag_seconds_sum") == 0.2


def test_provider_answers_are_timed_by_fate(metrics: Metrics) -> None:
    """Every word of the delivery room has its own series."""
    assert set(PROVIDER_RESULTS) == set(get_args(ResultClass))
    for answer in PROVIDER_RESULTS:
        metrics.observe_provider_request(answer, 0.1)
        assert value(metrics, "provider_answer_seconds_count", answer=answer) == 1


def test_the_lane_is_open_until_told_otherwise(metrics: Metrics) -> None:
    """1 and 0, so that an alert can say `== 0`."""
    assert value(metrics, "provider_account_restored") == 1
    metrics.set_provider_account_ok(False)
    assert value(metrics, "provider_account_restored") == 0


def test_bulk_does_not_rest_until_told_so(metrics: Metrics) -> None:
    """0 and 1, beside an open lane."""
    assert value(metrics, "bulk_resting") == 0
    metrics.set_provider_circuit_open(is_resting=True)
    assert value(metrics, "bulk_resting") == 1


def test_the_bus_is_asked_at_each_scrape(metrics: Metrics) -> None:
    """What waits, what is under way, and the rate, as they are then."""
    metrics.track_send_queue(lambda: 7, lambda: 3, lambda: 2.5)
    metrics.observe_batch_size(100)
    found = [value(metrics, name) for name in ("bus_mails", "requests_under_way", "request_rate", "request_mails_sum")]
    assert found == [7, 3, 2.5, 100]


def test_every_number_says_what_it_is(metrics: Metrics) -> None:
    """The build is told, names carry the prefix, and each has a help text."""
    assert value(metrics, "build_info", version="1.2.3", instance="vm-1") == 1
    for metric in metrics.registry.collect():
        assert metric.name.startswith(("flowstate_", "process_"))
        assert metric.documentation

"""Each method updates its own metric, and foreign text cannot add series."""

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
    """The number of our own series; those about the process depend on the system."""
    return sum(len(metric.samples) for metric in metrics.registry.collect() if metric.name[:4] == "flow")


@pytest.mark.parametrize("outcome", ["skipped", "retried", "failed", "released"])
def test_outcomes_are_counted_by_kind(metrics: Metrics, outcome: str) -> None:
    """An outcome counts for its kind and for no other."""
    getattr(metrics, f"mail_{outcome}")("otp")
    assert value(metrics, "mails_total", kind="otp", outcome=outcome) == 1
    assert value(metrics, "mails_total", kind="welcome", outcome=outcome) == 0


def test_mail_sent(metrics: Metrics) -> None:
    """One call updates the count and the duration."""
    metrics.mail_sent("otp", 0.07)
    assert value(metrics, "mails_total", kind="otp", outcome="sent") == 1
    assert value(metrics, "job_duration_seconds_bucket", kind="otp", le="0.1") == 1
    assert value(metrics, "job_duration_seconds_bucket", kind="otp", le="0.05") == 0


def test_further_kind_gets_its_own_series(metrics: Metrics) -> None:
    """From a reload on; what was counted before stays `other`, and kinds that are gone keep their series."""
    metrics.mail_sent("badge", 0.1)
    metrics.add_kinds(["badge", "otp"])
    metrics.mail_sent("badge", 0.1)
    metrics.observe_mail_latency("badge", 1.0)
    metrics.scheduled_mails_planned("badge", 3)
    metrics.mail_sent("welcome", 0.1)
    assert value(metrics, "mails_total", kind="other", outcome="sent") == 1
    assert value(metrics, "mails_total", kind="badge", outcome="sent") == 1
    assert value(metrics, "mail_latency_seconds_count", kind="badge") == 1
    assert value(metrics, "scheduled_mails_total", kind="badge", event="planned") == 3
    assert value(metrics, "mails_total", kind="welcome", outcome="sent") == 1


def test_latency_when_the_producers_clock_is_ahead(metrics: Metrics) -> None:
    """A negative latency counts as zero."""
    metrics.observe_mail_latency("otp", -3.0)
    assert value(metrics, "mail_latency_seconds_sum", kind="otp") == 0
    assert value(metrics, "mail_latency_seconds_count", kind="otp") == 1


@given(st.lists(st.text(), max_size=20))
def test_hostile_names_add_no_series(names: list[str]) -> None:
    """Whatever job names and results arrive, the number of series stays the same."""
    metrics = Metrics(KINDS)
    before = series(metrics)
    for name in names:
        metrics.mail_sent(name, 0.1)
        metrics.mail_failed(name)
        metrics.mail_retried(name)
        metrics.observe_mail_latency(name, 1.0)
        metrics.observe_provider_request(name, 0.1)
    assert series(metrics) == before
    unknown = len([name for name in names if name not in KINDS])
    assert value(metrics, "mails_total", kind="other", outcome="failed") == unknown


def test_each_method_updates_its_own_metric(metrics: Metrics) -> None:
    """Counters, gauges and histograms of the worker have the values that were reported."""
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
    assert value(metrics, "jobs_in_flight") == 7
    assert value(metrics, "redis_command_duration_seconds_count") == 1
    assert value(metrics, "event_loop_lag_seconds_sum") == 0.2


def test_provider_requests_are_timed_by_result(metrics: Metrics) -> None:
    """Every result class of `delivery` has its own series."""
    assert set(PROVIDER_RESULTS) == set(get_args(ResultClass))
    for result in PROVIDER_RESULTS:
        metrics.observe_provider_request(result, 0.1)
        assert value(metrics, "provider_request_duration_seconds_count", result=result) == 1


def test_provider_account_ok(metrics: Metrics) -> None:
    """1 at the start and 0 while the account is refused, so that an alert can compare with 0."""
    assert value(metrics, "provider_account_ok") == 1
    metrics.set_provider_account_ok(False)
    assert value(metrics, "provider_account_ok") == 0


def test_provider_circuit_open(metrics: Metrics) -> None:
    """0 at the start and 1 while bulk sending is paused."""
    assert value(metrics, "provider_circuit_open") == 0
    metrics.set_provider_circuit_open(is_open=True)
    assert value(metrics, "provider_circuit_open") == 1


def test_the_send_queue_is_read_at_each_scrape(metrics: Metrics) -> None:
    """Waiting emails, requests in flight and rate limit are those of the moment of the scrape."""
    metrics.track_send_queue(lambda: 7, lambda: 3, lambda: 2.5)
    metrics.observe_batch_size(100)
    names = (
        "send_queue_mails",
        "provider_requests_in_flight",
        "provider_rate_limit_per_second",
        "provider_batch_size_sum",
    )
    assert [value(metrics, name) for name in names] == [7, 3, 2.5, 100]


def test_every_metric_is_documented(metrics: Metrics) -> None:
    """The build information is exported, names have the prefix, and each metric has a help text."""
    assert value(metrics, "build_info", version="1.2.3", instance="vm-1") == 1
    for metric in metrics.registry.collect():
        assert metric.name.startswith(("flowstate_", "process_"))
        assert metric.documentation

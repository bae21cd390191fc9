"""The daemon's metrics as typed methods. Only this module and `web/metrics.py` use the Prometheus client.

The methods are called on the hot path: every label child is created at the start and looked up in a dict, so an
update takes about a microsecond. Labels only take values that are known beforehand; text from a job never
creates a new series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from flowstate_daemon.base.errors import ResultClass

Child = TypeVar("Child")

OTHER_LABEL = "other"
OUTCOMES = ("sent", "skipped", "expired", "retried", "failed", "released")
SCHEDULED_MAIL_EVENTS = ("planned", "enqueued", "skipped", "rescheduled", "outcome_unknown")
PROVIDER_EVENTS = (
    *("sent", "delivered", "delivery_delayed", "bounced", "complained", "opened", "clicked", "failed", "suppressed"),
    *("scheduled", "received", "suppression.removed"),
)
RECIPIENT_CHANGES = ("unsubscribed", "resubscribed")
DENIALS = ("token", "session", "csrf", "origin", "host", "rights", "too_many")
SPAN_RESULTS = ("finished", "exported", "failed")
PROVIDER_RESULTS: tuple[str, ...] = get_args(ResultClass)

JOB_DURATION_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200)
REDIS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
BATCH_SIZE_BUCKETS = (1, 2, 5, 10, 25, 50, 75, 99, 100)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


@dataclass(frozen=True, slots=True)
class MetricTotals:
    """What this daemon has done since it started. The latencies are counts by LATENCY_BUCKETS, and beyond the last."""

    sent: int
    failed: int
    retried: int
    skipped: int
    rate_limited: int
    urgent: tuple[int, ...]
    bulk: tuple[int, ...]


class LabelCache(dict[str, Child]):
    """The children of one label by value; all unknown values share the child `other`."""

    def __init__(self, values: Iterable[str], make: Callable[[str], Child]) -> None:
        super().__init__({value: make(value) for value in (*values, OTHER_LABEL)})
        self._make = make

    def add(self, values: Iterable[str]) -> None:
        """Give further values a child of their own."""
        for value in values:
            if value not in self:
                self[value] = self._make(value)

    def __missing__(self, value: str) -> Child:
        return self[OTHER_LABEL]


def _per_bucket(cumulative: list[int]) -> tuple[int, ...]:
    return tuple(count - before for count, before in zip(cumulative, [0, *cumulative], strict=False))


def _by_kind(counter: Counter, value: str) -> Callable[[str], Counter]:
    return lambda kind: counter.labels(kind, value)


class CountedElsewhere(Collector):
    """A counter whose value is read at each scrape."""

    def __init__(self, name: str, text: str, read: Callable[[], int]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self._read())


class Metrics:
    """All metrics of one daemon, in their own registry."""

    def __init__(self, kinds: Iterable[str] = (), *, version: str = "", instance: str = "") -> None:
        """`kinds` get their own series."""
        self.claimed = self.sent = 0  # totals for the status line; the registry has them by kind
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Info("flowstate_build", "Version and instance of this daemon.", registry=self.registry)
        build.info({"version": version, "instance": instance})
        self._kinds = tuple(kinds)
        self._kind_caches: list[LabelCache[Any]] = []
        self._mails()
        self._provider()
        self._worker()
        self._scheduler()

    def add_kinds(self, kinds: Iterable[str]) -> None:
        """Further kinds get their own series."""
        self._kinds = tuple(dict.fromkeys((*self._kinds, *kinds)))
        for cache in self._kind_caches:
            cache.add(self._kinds)

    def by_kind(self, make: Callable[[str], Child]) -> LabelCache[Child]:
        """The children of one metric by kind."""
        cache = LabelCache(self._kinds, make)
        self._kind_caches.append(cache)
        return cache

    def _mails(self) -> None:
        text = "Finished job runs, by kind and outcome."
        mails = Counter("flowstate_mails", text, ("kind", "outcome"), registry=self.registry)
        counters = [self.by_kind(_by_kind(mails, outcome)) for outcome in OUTCOMES]
        self._sent, self._skipped, self._expired, self._retried, self._failed, self._released = counters
        duration = self._histogram("job_duration", "From claim to email sent.", JOB_DURATION_BUCKETS, "kind")
        latency = self._histogram("mail_latency", "From enqueueing an email to sending it.", LATENCY_BUCKETS, "kind")
        self._totalled = (mails, latency)
        self._job_duration = self.by_kind(duration.labels)
        self._mail_latency = self.by_kind(latency.labels)

    def _provider(self) -> None:
        text = "Duration of one request to the provider, by result."
        duration = self._histogram("provider_request_duration", text, JOB_DURATION_BUCKETS, "result")
        self._request_duration = LabelCache(PROVIDER_RESULTS, duration.labels)
        self._provider_requests = duration
        self._account_ok = self._gauge("provider_account_ok", "1 while the provider accepts our account, else 0.")
        self._account_ok.set(1)
        text = "1 while bulk sending is paused because the provider fails, else 0."
        self._circuit_open = self._gauge("provider_circuit_open", text)
        text = "1 while bulk sending is paused because the account's quota is exceeded, else 0."
        self._quota_exceeded = self._gauge("provider_quota_exceeded", text)
        text = "Seconds until the daemon tries the provider again; 0 while it accepts emails."
        self._next_probe = self._gauge("provider_next_probe_seconds", text)
        text = "Events that the provider reported, by type; one that arrives twice is counted once."
        events = Counter("flowstate_provider_events", text, ("event",), registry=self.registry)
        self._provider_events = LabelCache(PROVIDER_EVENTS, events.labels)
        text = "What recipients changed on the pages that emails link to."
        changes = Counter("flowstate_unsubscribes", text, ("action",), registry=self.registry)
        self._recipient_changes = LabelCache(RECIPIENT_CHANGES, changes.labels)
        self._send_queue = self._gauge("send_queue_mails", "Rendered emails that wait for a request.")
        self._requests = self._gauge("provider_requests_in_flight", "Requests to the provider without a response yet.")
        text = "Requests per second that the provider allows; 0: no limit known yet."
        self._rate_limit = self._gauge("provider_rate_limit_per_second", text)
        text = "Emails in one request, observed when the request is stored."
        self._batch_size = Histogram(
            "flowstate_provider_batch_size", text, buckets=BATCH_SIZE_BUCKETS, registry=self.registry
        )

    def _worker(self) -> None:
        self._redis = self._histogram("redis_command_duration", "Duration of one Redis command.", REDIS_BUCKETS)
        self._lag = self._histogram("event_loop_lag", "Delay of the event loop.", LAG_BUCKETS)
        self._claimed = self._counter("jobs_claimed", "Jobs claimed from the queue.")
        self._lost = self._counter("locks_lost", "Jobs whose lock was lost while they were processed.")
        self._recovered = self._counter("jobs_recovered", "Jobs of an earlier process recovered at the start.")
        self._pruned = self._counter("failed_jobs_pruned", "Failed jobs deleted because of their age or number.")
        self._stalled = self._counter("jobs_stalled", "Stalled jobs that were put back or failed.")
        text = "Requests to the pages and the API that were refused, by reason."
        denied = Counter("flowstate_http_denied", text, ("reason",), registry=self.registry)
        self._denied = LabelCache(DENIALS, denied.labels)
        self._in_flight = self._gauge("jobs_in_flight", "Jobs being processed now.")
        self._tasks = self._gauge("asyncio_tasks", "Tasks of the event loop.")
        spans = Counter("flowstate_trace_spans", "Spans of traces, by result.", ("result",), registry=self.registry)
        self._spans_finished, self._spans_exported, self._spans_failed = map(spans.labels, SPAN_RESULTS)

    def _scheduler(self) -> None:
        text = "Scheduled emails, by kind and event."
        events = Counter("flowstate_scheduled_mails", text, ("kind", "event"), registry=self.registry)
        counters = [self.by_kind(_by_kind(events, event)) for event in SCHEDULED_MAIL_EVENTS]
        self._planned, self._enqueued, self._not_enqueued, self._rescheduled, self._unknown = counters
        text = "From the scheduled time to the email in the queue."
        self._schedule_delay = self.by_kind(self._histogram("schedule_delay", text, LATENCY_BUCKETS, "kind").labels)
        text = "1 while tables that a kind needs cannot be read."
        blocked = Gauge("flowstate_schedule_blocked", text, ("kind",), registry=self.registry)
        self._blocked = self.by_kind(blocked.labels)
        text = "Jobs of scheduled kinds that were skipped because another program made them."
        foreign = Counter("flowstate_foreign_scheduled_jobs", text, ("kind",), registry=self.registry)
        self._foreign = self.by_kind(foreign.labels)

    def totals(self, urgent: frozenset[str]) -> MetricTotals:
        """The counters and latencies of all kinds together; takes milliseconds, for use once a minute.

        `urgent` are the kinds whose latency is counted apart.
        """
        counts = dict.fromkeys(OUTCOMES, 0)
        latencies = {True: [0] * (len(LATENCY_BUCKETS) + 1), False: [0] * (len(LATENCY_BUCKETS) + 1)}
        metrics = (metric for family in self._totalled for metric in family.collect())
        for sample in (sample for metric in metrics for sample in metric.samples):
            if sample.name == "flowstate_mails_total":
                counts[sample.labels["outcome"]] += int(sample.value)
            elif sample.name.endswith("_bucket"):
                limit = float(sample.labels["le"])
                place = LATENCY_BUCKETS.index(limit) if limit in LATENCY_BUCKETS else len(LATENCY_BUCKETS)
                latencies[sample.labels["kind"] in urgent][place] += int(sample.value)
        return MetricTotals(
            sent=counts["sent"],
            failed=counts["failed"],
            retried=counts["retried"],
            skipped=counts["skipped"] + counts["expired"],
            rate_limited=self._count_requests("rate_limited"),
            urgent=_per_bucket(latencies[True]),
            bulk=_per_bucket(latencies[False]),
        )

    def _count_requests(self, result: str) -> int:
        """How many requests to the provider had this result."""
        samples = (sample for family in self._provider_requests.collect() for sample in family.samples)
        found = (one for one in samples if one.name.endswith("_count") and one.labels["result"] == result)
        return sum(int(sample.value) for sample in found)

    def mail_sent(self, kind: str, seconds: float) -> None:
        """`seconds` from the claim of the job until the email is sent and the job completed."""
        self.sent += 1
        self._sent[kind].inc()
        self._job_duration[kind].observe(seconds)

    def observe_mail_latency(self, kind: str, seconds: float) -> None:
        """`seconds` from the job's timestamp, when it was enqueued, until the email is sent."""
        self._mail_latency[kind].observe(max(seconds, 0.0))

    def mail_expired(self, kind: str) -> None:
        self._expired[kind].inc()

    def mail_skipped(self, kind: str) -> None:
        self._skipped[kind].inc()

    def mail_retried(self, kind: str) -> None:
        self._retried[kind].inc()

    def mail_failed(self, kind: str) -> None:
        self._failed[kind].inc()

    def mail_released(self, kind: str) -> None:
        self._released[kind].inc()

    def scheduled_mails_planned(self, kind: str, count: int) -> None:
        self._planned[kind].inc(count)

    def scheduled_mails_enqueued(self, kind: str, late_s: Iterable[float]) -> None:
        """`late_s`: for each enqueued email, the seconds since its scheduled time."""
        for seconds in late_s:
            self._enqueued[kind].inc()
            self._schedule_delay[kind].observe(max(seconds, 0.0))

    def scheduled_mails_skipped(self, kind: str, count: int) -> None:
        self._not_enqueued[kind].inc(count)

    def scheduled_mails_rescheduled(self, kind: str) -> None:
        self._rescheduled[kind].inc()

    def scheduled_mails_unknown(self, kind: str) -> None:
        self._unknown[kind].inc()

    def set_schedule_blocked(self, kind: str, *, waits: bool) -> None:
        self._blocked[kind].set(waits)

    def foreign_job_skipped(self, kind: str) -> None:
        self._foreign[kind].inc()

    def observe_provider_request(self, result: ResultClass, seconds: float) -> None:
        """One finished request."""
        self._request_duration[result].observe(seconds)

    def set_provider_account_ok(self, ok: bool) -> None:
        self._account_ok.set(ok)

    def set_provider_circuit_open(self, is_open: bool) -> None:
        self._circuit_open.set(is_open)

    def set_provider_quota_exceeded(self, is_exceeded: bool) -> None:
        self._quota_exceeded.set(is_exceeded)

    def track_provider_probe(self, next_probe_s: Callable[[], float]) -> None:
        """Read the time until the next probe at each scrape."""
        self._next_probe.set_function(next_probe_s)

    def observe_batch_size(self, mails: int) -> None:
        """One request with this many emails was stored and may be sent."""
        self._batch_size.observe(mails)

    def track_send_queue(
        self, mails: Callable[[], int], under_way: Callable[[], int], rate: Callable[[], float]
    ) -> None:
        """Read the send queue and the rate limiter at each scrape."""
        self._send_queue.set_function(mails)
        self._requests.set_function(under_way)
        self._rate_limit.set_function(rate)

    def provider_event(self, event: str) -> None:
        """The provider has reported an event of this type, such as `delivered`."""
        self._provider_events[event].inc()

    def recipient_changed(self, action: str) -> None:
        """A recipient has done one of RECIPIENT_CHANGES."""
        self._recipient_changes[action].inc()

    def spans_finished(self) -> None:
        """A span of a trace has ended; called in any thread, as `spans_exported`."""
        self._spans_finished.inc()

    def spans_exported(self, count: int, *, accepted: bool) -> None:
        """The collector has accepted spans, or not; these are lost."""
        (self._spans_exported if accepted else self._spans_failed).inc(count)

    def observe_redis_command(self, seconds: float) -> None:
        self._redis.observe(seconds)

    def track_dropped_log_lines(self, dropped: Callable[[], int]) -> None:
        """Read the number of dropped log lines at each scrape."""
        text = "Log lines that the reader of the log did not take."
        self.registry.register(CountedElsewhere("flowstate_log_lines_dropped", text, dropped))

    def observe_event_loop_lag(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def jobs_claimed(self, count: int) -> None:
        self.claimed += count
        self._claimed.inc(count)

    def locks_lost(self, count: int) -> None:
        self._lost.inc(count)

    def jobs_recovered(self, count: int) -> None:
        self._recovered.inc(count)

    def jobs_stalled(self, count: int) -> None:
        self._stalled.inc(count)

    def http_denied(self, reason: str) -> None:
        """A request to the pages or the API was refused for one of DENIALS."""
        self._denied[reason].inc()

    def failed_jobs_pruned(self, count: int) -> None:
        self._pruned.inc(count)

    def track_jobs_in_flight(self, busy: Callable[[], int]) -> None:
        """Read the number of jobs in flight at each scrape."""
        self._in_flight.set_function(busy)

    def track_tasks(self, count: Callable[[], int]) -> None:
        """Read the number of asyncio tasks at each scrape."""
        self._tasks.set_function(count)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"flowstate_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"flowstate_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"flowstate_{name}_seconds", text, labels, buckets=buckets, registry=self.registry)

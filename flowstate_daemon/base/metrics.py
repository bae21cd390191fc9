"""What the engine counts, as typed methods. Prometheus is known here and in `web/metrics.py` only.

Called from hot loops: every child of a label is made at the start and found in a dict, so an update costs
about a microsecond. A label takes only values known beforehand: no text of a job's makes a series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

Child = TypeVar("Child")

OTHER_LABEL = "other"
OUTCOMES = ("sent", "skipped", "expired", "retried", "failed", "released")
SCHEDULED_MAIL_EVENTS = ("planned", "fed", "skipped", "planned_again", "given_up")
# The delivery room's words for what came back; a test holds the two lists together.
PROVIDER_RESULTS = (
    "accepted",
    "earlier",
    "in_progress",
    "retry",
    "throttled",
    "quota",
    "closed",
    "final",
    "timeout",
    "network",
)

JOB_DURATION_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200)
REDIS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
BATCH_SIZE_BUCKETS = (1, 2, 5, 10, 25, 50, 75, 99, 100)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class LabelCache(dict[str, Child]):
    """The children of one label, by its value; every unknown value shares the child `other`."""

    def __init__(self, values: Iterable[str], make: Callable[[str], Child]) -> None:
        super().__init__({value: make(value) for value in (*values, OTHER_LABEL)})

    def __missing__(self, value: str) -> Child:
        return self[OTHER_LABEL]


def _ending(counter: Counter, ending: str) -> Callable[[str], Counter]:
    return lambda kind: counter.labels(kind, ending)


class Metrics:
    """All numbers of one daemon, in a registry of its own."""

    def __init__(self, kinds: Iterable[str] = (), *, version: str = "", instance: str = "") -> None:
        """`kinds` are the names of mails that get series of their own."""
        self.claimed = self.sent = 0  # for those who cannot scrape; the registry has them by kind
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Info("flowstate_build", "Version and instance of this daemon.", registry=self.registry)
        build.info({"version": version, "instance": instance})
        kinds = tuple(kinds)
        self._mails(kinds)
        self._provider()
        self._worker()
        self._scheduler(kinds)

    def _mails(self, kinds: tuple[str, ...]) -> None:
        text = "Runs of jobs that ended, by kind and by ending."
        ended = Counter("flowstate_mails", text, ("kind", "ending"), registry=self.registry)
        families = [LabelCache(kinds, _ending(ended, ending)) for ending in OUTCOMES]
        self._sent, self._skipped, self._expired, self._retried, self._failed, self._released = families
        send = self._histogram("mail_send", "From claiming a job to its mail sent.", JOB_DURATION_BUCKETS, "kind")
        wait = self._histogram("mail_wait", "From enqueueing a mail to sending it.", LATENCY_BUCKETS, "kind")
        self._send_seconds = LabelCache(kinds, send.labels)
        self._wait_seconds = LabelCache(kinds, wait.labels)

    def _provider(self) -> None:
        answer = self._histogram(
            "provider_answer", "Time of one request to the provider, by its answer.", JOB_DURATION_BUCKETS, "answer"
        )
        self._answers = LabelCache(PROVIDER_RESULTS, answer.labels)
        self._gate_open = self._gauge("provider_account_restored", "1 while the provider accepts our account, else 0.")
        self._gate_open.set(1)
        self._bulk_resting = self._gauge("bulk_resting", "1 while bulk rests because the provider is ill, else 0.")

        self._on_dispatcher = self._gauge("bus_mails", "Rendered mails that wait for a request.")
        self._under_way = self._gauge("requests_under_way", "Requests to the provider that have no answer yet.")
        self._rate = self._gauge("request_rate", "Requests a second, as the provider tells; 0: it has told no limit.")
        text = "Mails in one request, counted when it is sealed."
        self._mails_in_request = Histogram(
            "flowstate_provider_batch_size", text, buckets=BATCH_SIZE_BUCKETS, registry=self.registry
        )

    def _worker(self) -> None:
        self._redis = self._histogram("redis_round_trip", "Time of one call to Redis.", REDIS_BUCKETS)
        self._lag = self._histogram("loop_lag", "How late the event loop runs what is due.", LAG_BUCKETS)
        self._claimed = self._counter("jobs_claimed", "Jobs taken from the queue.")
        self._lost = self._counter("locks_lost", "Jobs whose lock was lost while they were worked on.")
        self._recovered = self._counter("jobs_recovered", "Jobs of a dead process taken back at the start.")
        self._stalled = self._counter("jobs_stalled", "Jobs whose worker went silent, put back or failed.")
        self._busy = self._gauge("slots_busy", "Jobs being worked on now.")

    def _scheduler(self, kinds: tuple[str, ...]) -> None:
        moved = Counter(
            "flowstate_notices", "Slots of the calendar, by kind and step.", ("kind", "step"), registry=self.registry
        )
        families = [LabelCache(kinds, _ending(moved, step)) for step in SCHEDULED_MAIL_EVENTS]
        self._planned, self._fed, self._not_fed, self._again, self._given_up = families
        late = self._histogram("notice_late", "From a slot's hour to its mail in the queue.", LATENCY_BUCKETS, "kind")
        self._late_seconds = LabelCache(kinds, late.labels)
        waits = Gauge(
            "flowstate_schedule_blocked",
            "1 while tables that a kind needs cannot be read.",
            ("kind",),
            registry=self.registry,
        )
        self._waits = LabelCache(kinds, waits.labels)

    def mail_sent(self, kind: str, seconds: float) -> None:
        """`seconds` from claiming the job to the mail sent and written down."""
        self.sent += 1
        self._sent[kind].inc()
        self._send_seconds[kind].observe(seconds)

    def observe_mail_latency(self, kind: str, seconds: float) -> None:
        """`seconds` from the job's first being due (its timestamp and delay) to its mail sent."""
        self._wait_seconds[kind].observe(max(seconds, 0.0))

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
        """`late_s`: for each mail that was put into the queue, how long after its slot's hour."""
        for seconds in late_s:
            self._fed[kind].inc()
            self._late_seconds[kind].observe(max(seconds, 0.0))

    def scheduled_mails_skipped(self, kind: str, count: int) -> None:
        self._not_fed[kind].inc(count)

    def scheduled_mails_rescheduled(self, kind: str) -> None:
        self._again[kind].inc()

    def scheduled_mails_unknown(self, kind: str) -> None:
        self._given_up[kind].inc()

    def set_schedule_blocked(self, kind: str, *, waits: bool) -> None:
        self._waits[kind].set(waits)

    def observe_provider_request(self, answer: str, seconds: float) -> None:
        """One request answered; `answer` is one of ANSWERS."""
        self._answers[answer].observe(seconds)

    def set_provider_account_ok(self, is_open: bool) -> None:
        self._gate_open.set(is_open)

    def set_provider_circuit_open(self, is_resting: bool) -> None:
        self._bulk_resting.set(is_resting)

    def observe_batch_size(self, mails: int) -> None:
        """One request of so many mails is written down and may leave."""
        self._mails_in_request.observe(mails)

    def track_send_queue(
        self, mails: Callable[[], int], under_way: Callable[[], int], rate: Callable[[], float]
    ) -> None:
        """Ask the bus and its pacer at each scrape."""
        self._on_dispatcher.set_function(mails)
        self._under_way.set_function(under_way)
        self._rate.set_function(rate)

    def observe_redis_command(self, seconds: float) -> None:
        self._redis.observe(seconds)

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

    def track_jobs_in_flight(self, busy: Callable[[], int]) -> None:
        """Ask for the number of busy slots at each scrape."""
        self._busy.set_function(busy)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"flowstate_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"flowstate_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"flowstate_{name}_seconds", text, labels, buckets=buckets, registry=self.registry)

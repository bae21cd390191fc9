"""The metrics of shadow mode. A daemon that sends does not have them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter

from flowstate_daemon.base.metrics import Metrics

PREDICTIONS = ("send", "skip", "expire", "fail")
COMPARISONS = ("same", "different", "unseen")


class ShadowMetrics:
    """Predictions and comparisons by kind; `totals` has them without the kind, for the log event at the end."""

    def __init__(self, metrics: Metrics) -> None:
        self.totals = dict.fromkeys((*PREDICTIONS, *COMPARISONS), 0)
        predictions = Counter(
            "flowstate_shadow_predictions_total",
            "Jobs evaluated without being claimed, by kind and by what this daemon would do.",
            ("kind", "predicted"),
            registry=metrics.registry,
        )
        comparisons = Counter(
            "flowstate_shadow_comparisons_total",
            "Jobs that another worker finished, by kind and by whether it did the same.",
            ("kind", "result"),
            registry=metrics.registry,
        )
        self._predictions = {value: metrics.by_kind(_by_kind(predictions, value)) for value in PREDICTIONS}
        self._comparisons = {value: metrics.by_kind(_by_kind(comparisons, value)) for value in COMPARISONS}

    def predicted(self, kind: str, prediction: str) -> None:
        """`prediction` is one of PREDICTIONS."""
        self.totals[prediction] += 1
        self._predictions[prediction][kind].inc()

    def compared(self, kind: str, result: str) -> None:
        """`result` is one of COMPARISONS."""
        self.totals[result] += 1
        self._comparisons[result][kind].inc()


def _by_kind(counter: Counter, value: str) -> Callable[[str], Counter]:
    return lambda kind: counter.labels(kind, value)

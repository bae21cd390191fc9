"""What a shadow counts, beside the numbers of every daemon. A daemon that sends has none of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Counter

from flowstate_daemon.base.metrics import LabelCache, Metrics

PREDICTIONS = ("send", "skip", "expire", "fail")
COMPARISONS = ("same", "different", "unseen")


class ShadowMetrics:
    """Jobs judged, and jobs compared, by kind; also as plain totals, for the log's last word."""

    def __init__(self, metrics: Metrics, kinds: Iterable[str]) -> None:
        kinds = tuple(kinds)
        self.totals = dict.fromkeys((*PREDICTIONS, *COMPARISONS), 0)
        judged = Counter(
            "flowstate_shadow_predictions_total",
            "Jobs judged without being claimed, by kind and by what would have been done.",
            ("kind", "predicted"),
            registry=metrics.registry,
        )
        compared = Counter(
            "flowstate_shadow_comparisons_total",
            "Jobs that another worker has ended, by kind and by whether it did the same.",
            ("kind", "result"),
            registry=metrics.registry,
        )
        self._judged = {word: LabelCache(kinds, _of(judged, word)) for word in PREDICTIONS}
        self._compared = {word: LabelCache(kinds, _of(compared, word)) for word in COMPARISONS}

    def predicted(self, kind: str, prediction: str) -> None:
        """`prediction` is one of PREDICTIONS."""
        self.totals[prediction] += 1
        self._judged[prediction][kind].inc()

    def compared(self, kind: str, result: str) -> None:
        """`result` is one of COMPARISONS."""
        self.totals[result] += 1
        self._compared[result][kind].inc()


def _of(counter: Counter, word: str) -> Callable[[str], Counter]:
    return lambda kind: counter.labels(kind, word)

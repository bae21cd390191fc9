"""The tests' own reader of PromQL: what it overlooks, nothing else would find."""

from __future__ import annotations

import pytest

from tests.support.promql import Selector, grouped_by, selectors

QUANTILE = 'histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{kind=~"x|y", job="{z}"}[5m]))) > 2.5e1'


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("up == 0", {"up"}),
        ("absent(up{})", {"up"}),
        (QUANTILE, {"a_bucket"}),
        ("max by (job) (a) > 9 unless on (job) max by (job) (b) == 1", {"a", "b"}),
        ("sum(rate(a[5m])) > 0.2 * sum(rate(b[5m] offset 1h))", {"a", "b"}),
        ('a and on (instance) b{loop="c"} or vector(1)', {"a", "b"}),
    ],
)
def test_it_finds_every_metric(expression: str, found: set[str]) -> None:
    """And takes no function, label, text or duration for one."""
    assert {named.metric for named in selectors(expression)} == found


def test_it_finds_labels_and_values() -> None:
    """Of matchers with all their alternatives, and of groupings."""
    assert selectors(QUANTILE) == [Selector("a_bucket", (("kind", ("x", "y")), ("job", ("{z}",))))]
    assert grouped_by(QUANTILE) == {"job", "le"}

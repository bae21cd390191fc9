"""The benchmark's report: ratios, spread, goals, and what is said when something is missing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.bench.charts import Bar, bar_chart, format_number
from tests.bench.figures import GOALS, best_peer
from tests.bench.peers import US
from tests.bench.report import build_charts, build_report, write
from tests.bench.results import Results, Run, Spread

SVG = "{http://www.w3.org/2000/svg}"


def results(*runs: Run) -> Results:
    return Results(
        "full", "abc", {"cpu": "a processor", "cores": 2}, {US: "1", "bull": "2"}, [1.0, 3.0], {}, list(runs)
    )


def drains(**rates: float) -> Results:
    names = {"ours": US}
    return results(*(Run("drain", names.get(name, name), 1, {"rate": rate}) for name, rate in rates.items()))


def row(page: str, name: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {name} |") and "/" not in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratio_is_of_medians() -> None:
    """The ratio divides medians over the rounds, not single rounds."""
    ours = [Run("drain", US, number, {"rate": rate}) for number, rate in enumerate((10.0, 300.0, 90.0), 1)]
    theirs = [Run("drain", "bull", number, {"rate": rate}) for number, rate in enumerate((30.0, 20.0, 1000.0), 1)]
    assert results(*ours, *theirs).ratio("drain", "bull", "rate") == pytest.approx(3.0)


def test_ratio_is_unknown_without_one_side() -> None:
    """No ratio is invented for a peer that failed, that was not measured, or whose median is 0."""
    one = results(
        Run("drain", US, 1, {"rate": 5.0}),
        Run("drain", "bull", 1, error="broken"),
        Run("drain", "rq", 1, {"rate": 0.0}),
    )
    assert [one.ratio("drain", peer, "rate") for peer in ("bull", "arq", "rq")] == [None, None, None]


def test_spread_counts_rounds_without_a_value() -> None:
    """A round in which it did not happen in time is counted, and does not enter the median."""
    one = results(*(Run("recovery", "saq", n, {"seconds": value}) for n, value in enumerate((60.0, None, 62.0), 1)))
    assert one.spread("recovery", "saq", "seconds") == Spread(60.0, 61.0, 62.0, 2, 1)
    assert not one.timed_out("recovery", "saq", "seconds")


def test_cell_of_a_peer_that_never_recovered() -> None:
    """A measurement that never happened within the limit is shown as such, in the table and in the chart."""
    one = results(Run("recovery", US, 1, {"seconds": 0.7}), Run("recovery", "arq", 1, {"seconds": None}))
    one.limits_s["recovery"] = 75.0
    assert row(build_report(one, "r.json"), "arq")[1] == "not within 75 s"
    assert "not within 75 s" in build_charts(one)["performance-recovery-seconds.svg"]


def test_failures_are_listed() -> None:
    """A peer that failed is named with its reason, and has no row of figures."""
    page = build_report(
        results(Run("drain", US, 1, {"rate": 5.0}), Run("drain", "rq", 2, error="no\nmodule")), "r.json"
    )
    assert "- drain, rq, round 2: no module" in page
    assert "| rq |" not in page


@pytest.mark.parametrize(
    ("figure", "ours", "theirs", "is_worse"),
    [
        ("rate", 10.0, 11.0, True),
        ("rate", 11.0, 10.0, False),
        ("rss_mb", 90.0, 40.0, True),
        ("rss_mb", 40.0, 90.0, False),
    ],
)
def test_says_where_a_peer_is_better(figure: str, ours: float, theirs: float, *, is_worse: bool) -> None:
    """Each figure in which a peer is better is listed, whichever direction is better."""
    page = build_report(
        results(Run("drain", US, 1, {figure: ours}), Run("drain", "bull", 1, {figure: theirs})), "r.json"
    )
    assert (f"bull {format_number(theirs)}; this daemon {format_number(ours)}" in page) is is_worse


def test_ratio_of_a_figure_where_less_is_better() -> None:
    """A ratio above 1 always means that this daemon is better."""
    one = results(Run("latency", US, 1, {"p50_ms": 2.0}), Run("latency", "arq", 1, {"p50_ms": 250.0}))
    assert row(build_report(one, "r.json"), "arq")[-1] == "125"


def test_goals_are_judged_by_medians() -> None:
    """A goal is met or not; without a measurement it is neither."""
    page = build_report(drains(ours=3000.0, bull=1000.0, arq=400.0), "r.json")
    assert row(page, "no-op jobs: rate relative to npm bull, times")[2:] == ["3.00", "met"]
    assert row(page, "no-op jobs: rate relative to the best Python peer, times")[2:] == ["7.50", "**not met**"]
    assert row(page, "idle: RSS, MB")[2:] == ["", "not measured"]


def test_best_peer_is_of_the_kind_that_was_asked_for() -> None:
    """The best Python peer is neither a node peer nor this daemon."""
    assert best_peer(drains(ours=9.0, bull=5.0, arq=1.0, saq=2.0), "drain", "rate") == "saq"
    assert best_peer(drains(ours=9.0, bull=5.0), "drain", "rate") is None


def test_every_goal_copes_with_no_results() -> None:
    """A report of nothing can be built: every goal is not measured."""
    assert all(goal.value(results()) is None for goal in GOALS)
    assert build_report(results(), "r.json").count("not measured") == len(GOALS)


def test_chart_is_well_formed_and_to_scale() -> None:
    """The bars of a chart are as long as their values are large; labels are escaped."""
    bars = [
        Bar("a <b>", Spread(5, 10, 20, 3), is_ours=True),
        Bar("c", Spread(5, 5, 5, 1)),
        Bar("d", None, note="failed"),
    ]
    chart = ET.fromstring(bar_chart("a & b", bars))
    widths = [float(rect.attrib["width"]) for rect in chart.iter(f"{SVG}rect")][1:]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert [text.text for text in chart.iter(f"{SVG}text")] == ["a & b", "a <b>", "10.0", "c", "5.00", "d", "failed"]


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_chart_copes_with_extreme_values(value: float) -> None:
    """Zero has no logarithm, and still has a bar; very small and very large values stay within the picture."""
    for logarithmic in (False, True):
        chart = ET.fromstring(bar_chart("t", [Bar("a", Spread(value, value, value, 1))], logarithmic=logarithmic))
        assert all(0 <= float(rect.attrib["width"]) <= 760 for rect in chart.iter(f"{SVG}rect"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345, "12,300"),
        (999.6, "1,000"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.0123, "0.0123"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """Figures are shown with three significant digits."""
    assert format_number(value) == text


def test_results_survive_a_round_trip(tmp_path: Path) -> None:
    """What was written is read again, so that an interrupted run can continue."""
    path = tmp_path / "results.json"
    one = results(Run("drain", US, 1, {"rate": 5.0, "p": None}), Run("drain", "rq", 2, error="broken"))
    one.write(path)
    assert Results.read(path) == one
    assert one.has("drain", "rq", 2)
    assert not one.has("drain", "rq", 1)


def test_write_replaces_earlier_charts(tmp_path: Path) -> None:
    """Charts that the page no longer shows are removed; other images stay."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "performance-gone.svg").write_text("")
    (images / "other.svg").write_text("")
    write(drains(ours=2.0, bull=1.0), tmp_path / "performance.md", images, "r.json")
    page = (tmp_path / "performance.md").read_text()
    names = {path.name for path in images.iterdir()}
    assert names == {"other.svg", "performance-drain-rate.svg", "performance-drain-cpu-us.svg"}
    assert all(f"images/{name}" in page for name in names - {"other.svg"})

"""Builds docs/performance.md and its charts from results. Pure, except for `write`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.bench.charts import Bar, bar_chart, format_number
from tests.bench.figures import GOALS, SECTIONS, Figure, Section
from tests.bench.peers import BY_NAME, US
from tests.bench.results import Results, Spread
from tests.bench.where_the_time_goes import where_the_time_goes

INTRODUCTION = """\
# Performance

This page is written by `make bench` from its results, `{results}`, and from the text in
`tests/bench/where_the_time_goes.md`; do not edit it.
It compares flowstate-daemon with other queue libraries ("peers"), one after the other, on the same machine and Valkey.

Absolute figures depend on the machine; compare the ratios. Where there are several rounds, a cell has the median
and, in brackets, minimum and maximum; a peer without brackets ran once. A difference smaller than the spread says
nothing. Every second round runs the peers in the reverse order. The figures of a peer are those of one worker process,
which is also what the daemon is. "Times better" is the daemon's rate divided by that of the peer, or the peer's time
divided by the daemon's: above 1 the daemon is better.

No-op jobs, latency and backlogs are measured with the daemon's worker alone; emails, start, idle cost and recovery with
the complete daemon.
"""
PLAN_NOTES = {"quick": " (small sizes, idle for 5 s, recovery within 5 s)"}
COMMANDS = """\
## How to repeat it

It needs Node.js, npm and a package registry: npm packages are installed in `tests/bench/node_modules`, each Python peer
in an environment of its own in `.cache/bench`, with the versions of `tests/bench/peers.txt`.

<!-- needs: the network -->
```sh
make bench          # all peers, three rounds: an hour and a half; started again, it continues where it stopped
make bench-quick    # a few peers and small sizes, under three minutes: artefacts/bench-quick/performance.md
make bench-report   # writes this page again
```

`make bench ARGS='--peers bull,arq'` limits the peers, `ARGS='--minutes 30'` the time, and `ARGS=--fresh` discards
an unfinished run.
"""


def build_report(results: Results, results_path: str) -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION.format(results=results_path), *_machine(results), *_goals(results), *_worse(results)]
    for section in SECTIONS:
        for step in _steps_of(section, results):
            parts += _section(section, step, results)
    parts += ["## Where the time goes\n", "\n".join(where_the_time_goes(results))]
    parts += [*_peers(results), *_failures(results), COMMANDS]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def build_charts(results: Results) -> dict[str, str]:
    """The charts by file name."""
    charts = {}
    for section in SECTIONS:
        for step in _steps_of(section, results):
            for figure in section.figures:
                if figure.chart:
                    bars = [_bar(results, step, name, figure) for name in results.peers(step)]
                    title = figure.chart + (f" ({_backlog(step)} waiting)" if section.step == "backlog-" else "")
                    charts[chart_name(step, figure)] = bar_chart(title, bars, logarithmic=figure.logarithmic)
    return charts


def write(results: Results, page: Path, images: Path, results_path: str) -> None:
    """Write page and charts, and remove charts that it no longer has."""
    page.parent.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("performance-*.svg"):
        old.unlink()
    for name, chart in build_charts(results).items():
        (images / name).write_text(chart)
    page.write_text(build_report(results, results_path))


def chart_name(step: str, figure: Figure) -> str:
    return f"performance-{step}-{figure.name.replace('_', '-')}.svg"


def _steps_of(section: Section, results: Results) -> list[str]:
    return [
        step
        for step in results.steps()
        if step == section.step or (section.step[-1] == "-" and step.startswith(section.step))
    ]


def _backlog(step: str) -> str:
    return f"{int(step.rpartition('-')[2]):,}"


def _machine(results: Results) -> Iterator[str]:
    machine, loads = results.machine, sorted(results.loads)
    yield "## Machine and versions\n"
    rows = [
        ("processor", f"{machine.get('cpu', '')}, {machine.get('cores', '')} cores"),
        ("memory", f"{machine.get('memory_gb', '')} GB"),
        ("system", f"{machine.get('system', '')}, Python {machine.get('python', '')}"),
        ("commit", results.commit),
        ("plan", results.plan + PLAN_NOTES.get(results.plan, "") + ("" if results.complete else ", not complete")),
    ]
    if loads:
        rows.append(
            ("load average during the run", f"{loads[0]:g} to {loads[-1]:g}, median {loads[len(loads) // 2]:g}")
        )
    rows += sorted(results.versions.items())
    yield _table(("", ""), rows)


def _goals(results: Results) -> Iterator[str]:
    yield "## Goals\n"
    rows = []
    for goal in GOALS:
        value = goal.value(results)
        met = "not measured" if value is None else ("met" if goal.compare(value, goal.wanted) else "**not met**")
        sign = "≥" if goal.compare(2, 1) else "≤"
        rows.append((goal.text, f"{sign} {goal.wanted:g}", "" if value is None else format_number(value), met))
    yield _table(("goal", "target", "measured", ""), rows)


def _worse(results: Results) -> Iterator[str]:
    """Every figure in which a peer's median is better than ours."""
    lines = []
    for section in SECTIONS:
        for step in _steps_of(section, results):
            for figure in section.figures:
                lines += _worse_in(results, section, step, figure)
    yield "## Where a peer is better\n"
    yield "\n".join(lines) if lines else "Not in this run."


def _worse_in(results: Results, section: Section, step: str, figure: Figure) -> Iterator[str]:
    ours = results.spread(step, US, figure.name)
    if ours is None:
        return
    better = []
    for name in results.peers(step):
        spread = results.spread(step, name, figure.name)
        sign = -1 if figure.more_is_better else 1
        if name != US and spread is not None and sign * spread.middle < sign * ours.middle:
            better.append(f"{name} {format_number(spread.middle)}")
    if better:
        where = section.heading + (f" of {_backlog(step)} jobs" if section.step == "backlog-" else "")
        yield f"- {where}, {figure.heading}: {', '.join(better)}; this daemon {format_number(ours.middle)}."


def _section(section: Section, step: str, results: Results) -> Iterator[str]:
    yield f"## {section.heading}" + (f": {_backlog(step)} jobs" if section.step == "backlog-" else "") + "\n"
    yield section.text + "\n"
    peers = results.peers(step)
    rows = []
    for name in peers:
        cells = [_cell(results, step, name, figure) for figure in section.figures]
        if any(cells):
            rows.append((name, *cells, _ratio(results, step, name, section.figures[0])))
    headings = ("", *(figure.heading for figure in section.figures), f"times better ({section.figures[0].heading})")
    if len(peers) == 1 or US not in peers:
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    yield _table(headings, rows)
    for figure in section.figures:
        if figure.chart:
            yield f"![{figure.chart}](images/{chart_name(step, figure)})\n"


def _cell(results: Results, step: str, name: str, figure: Figure) -> str:
    spread = results.spread(step, name, figure.name)
    if spread is None:
        return results.too_late(step) if results.timed_out(step, name, figure.name) else ""
    return format_spread(spread)


def format_spread(spread: Spread) -> str:
    """Median and, over several rounds, minimum and maximum."""
    text = format_number(spread.middle)
    if spread.rounds > 1:
        text += f" ({format_number(spread.low)} to {format_number(spread.high)})"
    return text + (f", {spread.missing} not within the limit" if spread.missing else "")


def _ratio(results: Results, step: str, name: str, figure: Figure) -> str:
    """How many times better we are in the first figure."""
    if name == US:
        return ""
    ratio = results.ratio(step, name, figure.name)
    if ratio is None or ratio == 0:
        return ""
    return format_number(ratio if figure.more_is_better else 1 / ratio)


def _bar(results: Results, step: str, name: str, figure: Figure) -> Bar:
    spread = results.spread(step, name, figure.name)
    late = results.timed_out(step, name, figure.name)
    return Bar(name, spread, name == US, results.too_late(step) if late else "failed")


def _peers(results: Results) -> Iterator[str]:
    yield "## Peers and their settings\n"
    rows = [(name, BY_NAME[name].settings, BY_NAME[name].urgent) for name in BY_NAME if name in results.versions]
    yield _table(("", "settings", "urgent jobs"), rows)


def _failures(results: Results) -> Iterator[str]:
    failed = [run for run in results.runs if run.error]
    yield "## What failed\n"
    if not failed:
        yield "Nothing.\n"
        return
    yield "\n".join(
        f"- {run.step}, {run.peer}, round {run.round}: {' '.join(run.error.split())[:200]}" for run in failed
    )


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"

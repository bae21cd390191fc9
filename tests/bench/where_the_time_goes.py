"""The part of the report that shows what the CPU time is used for, and why goals are missed. Pure, but for its text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.bench.charts import format_number
from tests.bench.figures import RATIO_GOAL_DRAIN, RATIO_GOAL_EMAILS, best_peer
from tests.bench.peers import US
from tests.bench.results import Results
from tests.bench.sampling import ENCODING, PARSING, RENDERING

TEXT = Path(__file__).with_suffix(".md")
EMAIL, NO_OP = "profile-email", "profile-noop"
STEPS = (EMAIL, NO_OP)
HEADINGS = ("", "real email, µs", "no-op job, µs")
TOTALS = (
    ("**worker, all parts**", "worker"),
    ("Redis", "redis"),
    ("fake provider", "provider"),
)
MAX_COMMANDS = 8
SHARED = (PARSING, RENDERING, ENCODING)


def where_the_time_goes(results: Results) -> Iterator[str]:
    """The paragraphs and tables of the section, without its heading."""
    if not set(STEPS) & set(results.steps()):
        yield "This run has no profile."
    else:
        yield from _table(HEADINGS, [*_rows(results, "part "), *_totals(results)])
        yield "\nEach cell is the median of the rounds, so the rows do not add up exactly."
        yield f"\nIn Redis, the {MAX_COMMANDS} largest commands; scripts are without the commands that they call:\n"
        yield from _table(("", *HEADINGS[1:]), _rows(results, "command ")[:MAX_COMMANDS])
    sentences = [*_drain(results), *_emails(results)]
    if sentences:
        yield "\n" + "\n".join(sentences)
    yield "\n" + TEXT.read_text()


def _median(results: Results, step: str, figure: str, peer: str = US) -> float | None:
    spread = results.spread(step, peer, figure)
    return None if spread is None else spread.middle


def _rows(results: Results, prefix: str) -> list[tuple[str, ...]]:
    """The figures with that prefix, the largest of an email first."""
    found = [name for run in results.runs if run.step in STEPS for name in run.figures if name.startswith(prefix)]
    values = {name: [_median(results, step, name) for step in STEPS] for name in dict.fromkeys(found)}
    ordered = sorted(values, key=lambda name: [-(value or 0.0) for value in values[name]])
    return [(name.removeprefix(prefix), *map(_cell, values[name])) for name in ordered if any(values[name])]


def _totals(results: Results) -> Iterator[tuple[str, ...]]:
    for text, figure in TOTALS:
        yield text, *(_cell(_median(results, step, figure)) for step in STEPS)


def _cell(value: float | None) -> str:
    return format_number(value) if value else ""


def _drain(results: Results) -> Iterator[str]:
    """What limits the drain, without sampling, and how far it is from the goal."""
    rate, worker, redis = (_median(results, "drain", figure) for figure in ("rate", "cpu_us", "redis_cpu_us"))
    if not rate or not worker or not redis:
        return
    yield (
        f"- Without the profiler, a no-op job takes {format_number(1e6 / rate)} µs. The worker uses "
        f"{format_number(worker)} µs of CPU time ({worker * rate / 1e4:.0f} %), and Redis {format_number(redis)} µs at "
        "the same time."
    )
    best = best_peer(results, "drain", "rate")
    theirs = _median(results, "drain", "rate", best) if best else None
    if theirs:
        yield (
            f"- {RATIO_GOAL_DRAIN:g} times the rate of the best Python peer, {best}, would be a job every "
            f"{format_number(1e6 / theirs / RATIO_GOAL_DRAIN)} µs."
        )


def _emails(results: Results) -> Iterator[str]:
    """The share of an email that peers have too, and the ratio that this share alone would allow."""
    parts = [_median(results, EMAIL, f"part {name}") for name in SHARED]
    worker, best = _median(results, EMAIL, "worker"), best_peer(results, "mails-batch", "rate")
    if not worker or not all(parts):
        return
    shared = sum(part for part in parts if part)
    yield (
        f"- Parsing, rendering and JSON take {format_number(shared)} of {format_number(worker)} µs of an email "
        f"({100 * shared / worker:.0f} %); peers do the same with the same code. The total is higher than without the "
        "profiler, which takes time itself."
    )
    theirs, ours = (_median(results, "mails-batch", "cpu_us", peer) for peer in (best or US, US))
    if best and theirs and ours:
        yield (
            f"- {best}, the best peer with batches, uses {format_number(theirs)} µs of CPU time per email, this "
            f"daemon {format_number(ours)}. With parsing, rendering and JSON as measured and everything else free, the "
            f"ratio of CPU time could be at most {format_number(theirs / shared)}; for a ratio of "
            f"{RATIO_GOAL_EMAILS:g}, everything else may take {_rest(theirs / RATIO_GOAL_EMAILS - shared)}."
        )


def _rest(left: float) -> str:
    return f"{format_number(left)} µs" if left > 0 else "no time: this goal cannot be reached on this machine"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    for line in (headings, ("---", *("---:",) * (len(headings) - 1)), *rows):
        yield "| " + " | ".join(line) + " |"

"""Measures what an email costs, simulates days of 10,000 to 100 million people with it, and writes docs/capacity.md.

`make capacity`, or `python -m tests.bench.capacity [--mails N] [--rows N]`, measures. It writes artefacts/capacity.json
and the figures between the two marks of the document; `--from FILE` takes an earlier measurement.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flowstate_daemon.base import logs
from tests.bench.capacity_costs import run
from tests.bench.capacity_model import Costs, Load, limits, plan
from tests.support.interrupts import interruptible

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "capacity.md"
ARTEFACT = ROOT / "artefacts" / "capacity.json"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
POPULATIONS = (10_000, 1_000_000, 100_000_000)
USUAL_REQUESTS_PER_S = 10.0


def costs_of(measured: dict[str, Any]) -> Costs:
    """The costs of an email, from a measurement."""
    mail, ledger = measured["delivery"], measured["ledger"]
    return Costs(
        daemon_cpu_us=mail["daemon_cpu_us"],
        redis_cpu_us=mail["redis_cpu_us"],
        postgres_cpu_us=mail["postgres_cpu_us"] + ledger["delete_cpu_us"],
        waiting_job_bytes=mail["waiting_job_bytes"],
        ledger_row_bytes=mail["ledger_row_bytes"],
        request_row_bytes=mail["request_row_bytes"],
        scheduled_row_bytes=ledger["scheduled_row_bytes"],
        delete_rows_per_s=ledger["delete_rows_per_s"],
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def number(value: float) -> str:
    """Three digits are enough, and honest."""
    return f"{value:,.2f}" if value < 1 else f"{value:,.1f}" if value < 10 else f"{float(f'{value:.3g}'):,.0f}"


def report(measured: dict[str, Any]) -> str:
    """The part of the document that is made from figures."""
    costs, mail, ledger = costs_of(measured), measured["delivery"], measured["ledger"]
    lines = ["", "An email costs:", ""]
    lines += table(
        ("what", "for each email"),
        [
            ("CPU of the daemon: render, send, settle, ledger", f"{number(costs.daemon_cpu_us)} µs"),
            ("CPU of Redis", f"{number(costs.redis_cpu_us)} µs"),
            ("commands of Redis, those inside scripts included", number(mail["redis_commands"])),
            ("traffic with Redis", f"{number(mail['redis_in_bytes'] + mail['redis_out_bytes'])} bytes"),
            ("memory of Redis while it waits", f"{number(costs.waiting_job_bytes)} bytes"),
            ("CPU of Postgres: ledger, requests, pruning", f"{number(costs.postgres_cpu_us)} µs"),
            ("row of the ledger, with indexes", f"{number(costs.ledger_row_bytes)} bytes, for a year"),
            ("row of a scheduled email, with indexes", f"{number(costs.scheduled_row_bytes)} bytes, for a year"),
            ("row of the request that contained it", f"{number(costs.request_row_bytes)} bytes, for a day"),
        ],
    )
    carried = limits(costs, daemons=1, requests_per_s=USUAL_REQUESTS_PER_S)
    lines += ["One machine with one daemon can handle, if each part uses up to 70 % of a core:", ""]
    lines += table(
        ("limit", "emails per second"),
        [
            (f"the provider, at {USUAL_REQUESTS_PER_S:.0f} requests per second", number(carried["provider"])),
            ("one daemon", number(carried["daemons"])),
            ("one queue: one thread of Redis", number(carried["Redis"])),
            ("one core of Postgres", number(carried["Postgres, one core"])),
        ],
    )
    plans = [plan(costs, Load(people)) for people in POPULATIONS]
    lines += ["For a number of people, with the assumptions below:", ""]
    lines += table(
        ("", *(f"{one.load.people:,} people" for one in plans)),
        [
            ("emails per day", *(number(one.load.mails_a_day) for one in plans)),
            ("emails per second in the busiest hour", *(number(one.load.needed_rate) for one in plans)),
            ("requests per second that the provider must allow", *(number(one.requests_per_s) for one in plans)),
            ("daemons", *(f"{one.daemons:,}" for one in plans)),
            ("share of a core of Redis", *(f"{100 * one.redis_share:,.1f} %" for one in plans)),
            ("cores of Postgres", *(number(one.postgres_share) for one in plans)),
            (
                "memory of Redis at the largest backlog, if all of it is there, MB",
                *(number(one.redis_mb) for one in plans),
            ),
            ("rows of the ledger after a year", *(number(one.ledger_rows) for one in plans)),
            ("disk of Postgres after a year, GB", *(number(one.ledger_gb) for one in plans)),
            ("time to prune a day", *(f"{number(one.prune_s)} s" for one in plans)),
            (
                "simulated: until the largest time zone has all its emails",
                *(f"{number(one.day.morning_s / 60)} min" for one in plans),
            ),
            ("simulated: largest backlog", *(number(one.day.most_waiting) for one in plans)),
        ],
    )
    lines += [f"Keeping the ledger, measured with two million rows of which {ledger['rows']:,} are pruned:", ""]
    lines += table(
        ("", "one table (as built)", "a partition for each month"),
        [
            (
                f"prune {ledger['rows']:,} rows",
                f"{number(ledger['rows'] / ledger['delete_rows_per_s'])} s, {number(ledger['vacuum_s'])} s of vacuum",
                f"{number(ledger['drop_s'])} s to drop",
            ),
            (
                "disk before, and after pruning and as many new rows",
                f"{number(ledger['bytes_before'] / 1e6)} MB, {number(ledger['bytes_after_refill'] / 1e6)} MB",
                "the same, without reuse",
            ),
            (
                "the emails of one address, median, not all in memory",
                f"{number(ledger['lookup_ms'])} ms",
                f"{number(ledger['partition_lookup_ms'])} ms",
            ),
            ("an outcome is stored once", "a unique key", "not across months"),
        ],
    )
    return "\n".join(lines)


def with_figures(document: str, figures: str) -> str:
    """The document with these figures between its marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.capacity", description=__doc__)
    parser.add_argument("--mails", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--from", dest="source", type=Path)
    given = parser.parse_args()
    logs.configure("warning")
    if given.source is None:
        with interruptible("make capacity"), tempfile.TemporaryDirectory() as folder:
            measured = run(Path(folder), given.mails, given.rows)
        ARTEFACT.parent.mkdir(exist_ok=True)
        ARTEFACT.write_text(json.dumps(measured, indent=2) + "\n")
    else:
        measured = json.loads(given.source.read_text())
    DOCUMENT.write_text(with_figures(DOCUMENT.read_text(), report(measured)))
    print(report(measured))


if __name__ == "__main__":
    main()

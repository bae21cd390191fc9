"""Rendering time and size of an email by kind; without queue and provider, on one core.

`python -m tests.bench.rendering`
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from flowstate_daemon.mail.kinds import parse_request
from flowstate_daemon.mail.samples import all_samples
from tests.support.mail_samples import RENDERER, TO

TIMES, RUNS = 200, 5


def rendering() -> dict[str, dict[str, Any]]:
    """By sample: microseconds of parsing and rendering (the best of some rounds), bytes, bytes when compressed."""
    return {sample.name: _measured(sample.kind, {"to": TO, "context": sample.context}) for sample in all_samples()}


def _measured(kind: str, job: dict[str, Any]) -> dict[str, Any]:
    data = msgspec.json.encode(job)
    spent = []
    for _ in range(RUNS):
        started = time.process_time()
        for _ in range(TIMES):
            mail = RENDERER.render(parse_request(kind, data), issued_ms=1_772_000_000_000)
        spent.append((time.process_time() - started) / TIMES)
    html = mail.html.encode()
    return {"us": round(min(spent) * 1e6), "html": len(html), "zipped": len(zlib.compress(html, 1))}


def show(figures: dict[str, dict[str, Any]]) -> None:
    table = Table(title="rendering on one core", title_justify="left")
    for column in ("email", "µs", "emails per second", "HTML bytes", "zipped"):
        table.add_column(column, justify="left" if column == "email" else "right")
    for name, one in figures.items():
        table.add_row(name, *(str(value) for value in (one["us"], round(1e6 / one["us"]), one["html"], one["zipped"])))
    Console().print(table)


if __name__ == "__main__":
    show(rendering())

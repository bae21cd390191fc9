"""Line charts as SVG, made on the server: no script draws, and no style is inline. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 150  # about the size in which they are shown, so that the text keeps its size
MIN_WHOLE = 10  # smaller numbers are shown with a fraction
NO_VALUES = "\N{EN DASH}"
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 22


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name, the name of its CSS class, and a value for each point (None: no value)."""

    label: str
    css_class: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its title and the lines for its legend."""

    title: str
    lines: Sequence[Line]
    svg: Markup


def line_chart(
    title: str, labels: Sequence[str], lines: Sequence[Line], *, unit: str = "", decimal: str = "."
) -> Chart:
    """The chart, with its last and highest values as text. `labels` are those of the first and the last point.

    `decimal` is the decimal mark of the language.
    """
    highest = max((value for line in lines for value in line.values if value is not None), default=0.0)
    top = nice_ceiling(highest)
    summary = escape(_summary(lines, unit, decimal))
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}. {summary}">',
        f"<title>{summary}</title>",
    ]
    for share in (0.0, 0.5, 1.0):
        y = _y(top * share, top)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
        number = escape(_number(top * share, decimal))
        parts.append(f'<text class="axis" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number}</text>')
    for line in lines:
        parts.extend(
            f'<polyline class="line {line.css_class}" points="{points}"/>' for points in _segments(line.values, top)
        )
    if labels:
        base = HEIGHT - 6
        parts.append(f'<text class="axis" x="{LEFT}" y="{base}">{escape(labels[0])}</text>')
        parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{base}" text-anchor="end">{escape(labels[-1])}</text>')
    parts.append("</svg>")
    return Chart(title, lines, Markup("".join(parts)))  # noqa: S704 - every text above is escaped


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not below the value; 1 for 0. Pure."""
    if value <= 0:
        return 1.0
    power = 1e-6
    while power * 10 < value:
        power *= 10
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value * (1 - 1e-9))


def _segments(values: Sequence[float | None], top: float) -> list[str]:
    """The points of the line, cut where values are missing; a single point becomes a short line."""
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values) - 1)
    segments: list[list[str]] = [[]]
    for number, value in enumerate(values):
        if value is None:
            segments.append([])
        else:
            segments[-1].append(f"{LEFT + number * step:.1f},{_y(value, top)}")
    return [" ".join(points if len(points) > 1 else [*points, _beside(points[0])]) for points in segments if points]


def _beside(point: str) -> str:
    x, _, y = point.partition(",")
    return f"{float(x) + 2:.1f},{y}"


def _y(value: float, top: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top), 1)


def _number(value: float, decimal: str) -> str:
    if value >= MIN_WHOLE or value == int(value):
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}".replace(".", decimal)


def _summary(lines: Sequence[Line], unit: str, decimal: str) -> str:
    """The chart in words, for screen readers and pointers: the last and the highest value of each line."""
    texts = []
    for line in lines:
        known = [value for value in line.values if value is not None]
        if known:
            texts.append(
                f"{line.label}: {_number(known[-1], decimal)}{unit}, max. {_number(max(known), decimal)}{unit}"
            )
    return "; ".join(texts) or NO_VALUES

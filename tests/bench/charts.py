"""Bar charts as SVG, without a library: a bar for each peer, its spread as a line, and the figure as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tests.bench.results import Spread

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 760, 130, 110
ROW, BAR, TOP, BOTTOM = 26, 16, 44, 12
OURS, OTHERS, RANGE, TEXT, PAPER = "#0f766e", "#94a3b8", "#334155", "#1e293b", "#ffffff"
FONT = "font-family='system-ui, sans-serif' font-size='13'"


@dataclass(frozen=True, slots=True)
class Bar:
    """One peer of a chart; `spread` is None when it did not happen within the time limit, as `note` says."""

    label: str
    spread: Spread | None
    is_ours: bool = False
    note: str = ""


def bar_chart(title: str, bars: Sequence[Bar], *, logarithmic: bool = False) -> str:
    """An SVG document. Bars begin at zero; on a logarithmic scale, at a tenth of the smallest value."""
    height = TOP + ROW * len(bars) + BOTTOM
    width = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    values = [value for bar in bars if bar.spread for value in (bar.spread.low, bar.spread.high) if value > 0]
    scale = _scale(values, width, logarithmic=logarithmic)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' {FONT}>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{WIDTH}' height='{height}' fill='{PAPER}'/>",
        f"<text x='12' y='24' fill='{TEXT}' font-weight='600'>{escape(title)}</text>",
    ]
    for index, bar in enumerate(bars):
        parts += _row(bar, TOP + ROW * index, scale)
    return "\n".join([*parts, "</svg>", ""])


def _scale(values: Sequence[float], width: int, *, logarithmic: bool) -> tuple[float, float, bool]:
    """Pixels per unit, the value at the left end, and whether the unit is a power of ten."""
    if not values:
        return 0.0, 0.0, False
    if not logarithmic:
        return width / max(values), 0.0, False
    left = math.log10(min(values)) - 1
    return width / (math.log10(max(values)) - left), left, True


def _length(value: float, scale: tuple[float, float, bool]) -> float:
    per_unit, left, logarithmic = scale
    if value <= 0:
        return 0.0
    return per_unit * ((math.log10(value) if logarithmic else value) - left)


def _row(bar: Bar, top: int, scale: tuple[float, float, bool]) -> list[str]:
    middle = top + BAR // 2
    text_y = middle + 5
    label = f"<text x='{LABEL_WIDTH - 8}' y='{text_y}' text-anchor='end' fill='{TEXT}'>{escape(bar.label)}</text>"
    if bar.spread is None:
        return [label, f"<text x='{LABEL_WIDTH + 4}' y='{text_y}' fill='{RANGE}'>{escape(bar.note)}</text>"]
    low, length, high = (_length(value, scale) for value in (bar.spread.low, bar.spread.middle, bar.spread.high))
    value = format_number(bar.spread.middle)
    color = OURS if bar.is_ours else OTHERS
    return [
        label,
        f"<rect x='{LABEL_WIDTH}' y='{top}' width='{max(length, 1):.1f}' height='{BAR}' rx='2' fill='{color}'/>",
        f"<path d='M{LABEL_WIDTH + low:.1f} {middle}H{LABEL_WIDTH + high:.1f}' stroke='{RANGE}' stroke-width='2'/>",
        f"<text x='{LABEL_WIDTH + max(length, high) + 6:.1f}' y='{text_y}' fill='{TEXT}'>{value}</text>",
    ]


def format_number(value: float) -> str:
    """Three significant digits, with thousands separators: 12,300 · 1,230 · 123 · 12.3 · 1.23 · 0.012."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(digits, 0)}f}"

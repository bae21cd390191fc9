"""Tables and records as lines of text that fit the terminal. Pure.

Widths are counted in terminal cells: a wide character takes two, a combining one none. Nothing is cut: what does not
fit is folded, and a table whose columns would become too narrow is printed as records, one field a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len, split_graphemes

GAP = 2  # cells between two columns
MAX_SHORT_WIDTH = 24  # a column up to this width is never folded, so that ids and timestamps can be copied
MIN_FOLDED_WIDTH = (
    14  # a longer one is folded down to this width, or its longest word; below, records are easier to read
)
MIN_VALUE_WIDTH = 12  # of a value beside its name; on a narrower terminal it is below the name

Cells = Sequence[str]


def layout_table(columns: Cells, rows: Sequence[Cells], width: int | None) -> list[str]:
    """The header and the rows; or, if the columns do not fit into `width` cells, one record for each row."""
    cells = list(zip(columns, *rows, strict=True))
    natural = [max(map(text_width, column)) for column in cells]
    widths = natural if width is None else fit_widths(natural, [_least_width(column) for column in cells], width)
    if widths is None:
        records = [layout_fields(list(zip(columns, row, strict=True)), width) for row in rows]
        return [line for number, record in enumerate(records) for line in (["", *record] if number else record)]
    return [line for row in (columns, *rows) for line in _layout_row(row, widths)]


def layout_fields(fields: Sequence[tuple[str, str]], width: int | None) -> list[str]:
    """Names and values, one field after the other, without those that have no value."""
    filled = [(name, value) for name, value in fields if value]
    indent = max((text_width(name) for name, _ in filled), default=0) + GAP
    if width is not None and width - indent < MIN_VALUE_WIDTH:
        below = max(width - GAP, 2)
        return [
            line
            for name, value in filled
            for line in (*fold(name, max(width, 2)), *(f"{'':{GAP}}{part}" for part in fold(value, below)))
        ]
    widths = [indent - GAP, None if width is None else width - indent]
    return [line for field in filled for line in _layout_row(field, widths)]


def fit_widths(natural: Sequence[int], least: Sequence[int], width: int) -> list[int] | None:
    """The widths of the columns in a terminal; None if a table of these columns would be hard to read."""
    widths = list(natural)
    for _ in range(sum(natural) + GAP * (len(natural) - 1) - width):
        # The widest column, which contains prose, gives way first.
        foldable = [number for number, cells in enumerate(widths) if cells > max(least[number], MIN_FOLDED_WIDTH)]
        if not foldable:
            return None
        widths[max(foldable, key=lambda number: widths[number])] -= 1
    return widths


def _least_width(column: Cells) -> int:
    """The narrowest that a column may become: its width if it is short, else that of its longest word."""
    natural = max(map(text_width, column))
    return natural if natural <= MAX_SHORT_WIDTH else max(cell_len(word) for cell in column for word in cell.split())


def fold(text: str, width: int | None) -> list[str]:
    """The lines of a text, each at most `width` (at least 2) cells: broken at blanks, else between characters."""
    lines = text.split("\n")
    return lines if width is None else [part for line in lines for part in _fold_line(line, width)]


def text_width(text: str) -> int:
    """The cells that the longest line of a text takes."""
    return max(map(cell_len, text.split("\n")))


def _fold_line(line: str, width: int) -> Iterator[str]:
    while cell_len(line) > width:
        end = _fitting_length(line, width)
        blank = line.rfind(" ", 0, end + 1)
        if blank > 0 and line[:blank].strip(" "):
            yield line[:blank].rstrip(" ")
            line = line[blank + 1 :].lstrip(" ")
        else:
            yield line[:end]
            line = line[end:]
    yield line


def _fitting_length(line: str, width: int) -> int:
    """How many characters of a line fit into `width` cells; at least one grapheme."""
    for start, end, _ in split_graphemes(line)[0]:
        # Not the sum of the graphemes' cells: with two joiners at the start rich counts one cell less in that sum.
        if cell_len(line[:end]) > width:
            return start or end
    return len(line)


def _layout_row(cells: Cells, widths: Sequence[int | None]) -> Iterator[str]:
    folded = [fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, folded))):
        parts = [lines[number] if number < len(lines) else "" for lines in folded]
        padded = [part + " " * max((width or 0) - cell_len(part), 0) for part, width in zip(parts, widths, strict=True)]
        yield (" " * GAP).join(padded).rstrip(" ")

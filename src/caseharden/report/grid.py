"""Tables for a terminal of any width: names are folded, numbers never cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

GAPS = (2, 1)
"""Blanks between two columns: as many as there is room for."""


@dataclass(frozen=True)
class Column:
    """A column of names, folded down to `least` cells, or of numbers, never folded and to the right."""

    heading: str
    numbers: bool = False
    least: int = 12


@dataclass(frozen=True)
class Cell:
    """Text in one color. Its lines become one where there is room."""

    text: str
    style: str = ""

    @property
    def one_line(self) -> Cell:
        return Cell(self.text.replace("\n", " "), self.style)


@dataclass
class Grid:
    """A table in sections, each with a title. Where its columns do not fit, each row becomes a list of lines.

    Columns are of one width in all sections. Names are folded after spaces, plus signs and opening parentheses.
    """

    columns: Sequence[Column]
    sections: list[tuple[str, list[Sequence[str | Cell]]]] = field(default_factory=list)

    def section(self, title: str) -> list[Sequence[str | Cell]]:
        """The rows of a new section, to be filled."""
        self.sections.append((title, []))
        return self.sections[-1][1]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sections = [
            (_writable(title, console), [[_cell(cell, console) for cell in row] for row in rows])
            for title, rows in self.sections
        ]
        heads = [Cell(_writable(column.heading, console), "bold") for column in self.columns]
        every = [heads, *(row for _, rows in sections for row in rows)]
        gap, widths = self._widths(
            [[cell.one_line for cell in row] for row in every], options.max_width, fold=False
        )
        if widths:
            heads, sections = (
                [head.one_line for head in heads],
                [(title, [[cell.one_line for cell in row] for row in rows]) for title, rows in sections],
            )
        else:
            gap, widths = self._widths(every, options.max_width)
        for title, rows in sections:
            if title:
                yield from (Text(line, style="bold") for line in folded(title, options.max_width))
            if widths:
                yield from self._lines(heads, widths, gap, bottom=True)
                yield Text(_writable("─" * (sum(widths) + gap * (len(widths) - 1)), console), style="dim")
                yield from (line for row in rows for line in self._lines(row, widths, gap))
            else:
                yield from _one_below_another(heads, rows, options.max_width)
            yield Text("")

    def _widths(self, rows: Sequence[Sequence[Cell]], room: int, *, fold: bool = True) -> tuple[int, list[int]]:
        """The gap, and the width of each column, all within `room`; none if they do not fit."""
        most = [
            max(cell_len(line) for cell in cells for line in cell.text.split("\n"))
            for cells in zip(*rows, strict=True)
        ]
        least = [
            min(widest, column.least) if fold and not column.numbers else widest
            for widest, column in zip(most, self.columns, strict=True)
        ]
        gaps = [gap for gap in GAPS if sum(least) + gap * (len(most) - 1) <= room]
        if not gaps:
            return 0, []
        while sum(most) + gaps[0] * (len(most) - 1) > room:  # the widest names give way first
            widest = max((most[i], i) for i in range(len(most)) if most[i] > least[i])[1]
            most[widest] -= 1
        return gaps[0], most

    def _lines(self, row: Sequence[Cell], widths: Sequence[int], gap: int, bottom: bool = False) -> Iterator[Text]:
        parts = [folded(cell.text, width) for cell, width in zip(row, widths, strict=True)]
        height = max(map(len, parts))
        if bottom:
            parts = [[""] * (height - len(part)) + part for part in parts]
        for number in range(height):
            line = Text()
            for cell, part, width, column in zip(row, parts, widths, self.columns, strict=True):
                text = part[number] if number < len(part) else ""
                space = " " * (width - cell_len(text))
                line.append(" " * gap if line else "")
                line.append(space if column.numbers else "").append(text, Style.parse(cell.style))
                line.append("" if column.numbers else space)
            line.rstrip()
            yield line


def folded(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells, broken where a reader would."""
    lines = []
    for whole in text.split("\n"):
        line = ""
        for piece in re.findall(r"[^ +(]+[ +(]?|[ +(]", whole):
            if line and cell_len((line + piece).rstrip()) > width:
                lines.append(line.rstrip())
                line = ""
            line += piece
            while len(line) > 1 and cell_len(line.rstrip()) > width:
                cut = max(n for n in range(1, len(line)) if cell_len(line[:n]) <= width or n == 1)
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line.rstrip())
    return lines


def _one_below_another(heads: Sequence[Cell], rows: Sequence[Sequence[Cell]], width: int) -> Iterator[Text]:
    for number, row in enumerate(rows):
        if number:
            yield Text("")
        for head, cell in zip(heads, row, strict=True):
            label = head.one_line.text
            for i, line in enumerate(folded(f"{label}: {cell.one_line.text}", width)):
                start = len(label) + 1 if i == 0 else 0
                yield Text(line[:start], "dim").append(line[start:], Style.parse(cell.style))


def _cell(cell: str | Cell, console: Console) -> Cell:
    text, style = (cell, "") if isinstance(cell, str) else (cell.text, cell.style)
    return Cell(_writable(text, console), style)


def _writable(text: str, console: Console) -> str:
    """What a terminal of this encoding will make of `text`, so that columns stay in line."""
    how = getattr(console.file, "errors", None) or "strict"
    try:
        return text.encode(console.encoding, how).decode(console.encoding)
    except UnicodeError:
        return text

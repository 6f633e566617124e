"""The frontier as characters where stdout is a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from prune_tool.records import Analysis, Candidate
from prune_tool.report.chart import Axis, around
from prune_tool.report.figures import cost_axes

HEIGHT, WIDEST = 12, 96
"""Rows and most columns of the plot: a frontier of ten candidates needs no more."""

LABEL_WIDTH = 7
"""Columns of the accuracies on the left, such as ``84.3 %``, and a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """Characters for what is shown."""

    candidate: str
    shipped: str
    full: str
    level: str
    axis: str
    corner: str


UNICODE = Glyphs(candidate="●", shipped="◉", full="◆", level="┈", axis="─", corner="└")
ASCII = Glyphs(candidate="o", shipped="@", full="#", level=".", axis="-", corner="+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPlot:
    """Accuracy against the first of ``cost_axes`` on a log scale; nothing where stdout is no terminal.

    ``metric`` names what is counted: accuracy or balanced accuracy.
    """

    analysis: Analysis
    candidates: Sequence[Candidate]
    metric: str
    shipped: Candidate | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it to the console's width."""
        if not console.file.isatty():
            return
        glyphs = ASCII if options.ascii_only else UNICODE
        yield from self._draw(min(options.max_width, WIDEST), glyphs)

    def _draw(self, width: int, glyphs: Glyphs) -> RenderResult:
        full, cost = self.analysis.full, cost_axes(self.analysis)[0]
        marked = [(c, glyphs.candidate) for c in self.candidates]
        marked += [(self.shipped, glyphs.shipped)] if self.shipped else []
        places = [(cost.of(c), c.val.accuracy, glyph) for c, glyph in marked]
        places.append((cost.full(self.analysis), full.val.accuracy, glyphs.full))
        x = around([at for at, _, _ in places], title="", unit=cost.unit, log=True, margin=0.03)
        y = around([accuracy for _, accuracy, _ in places], title="", unit="share", margin=0.03)
        columns = width - LABEL_WIDTH
        grid = [[" "] * columns for _ in range(HEIGHT)]
        grid[_row(y, full.val.accuracy)] = [glyphs.level] * columns
        for at, accuracy, glyph in places:  # the shipped one, then full, last: what matters more is on top
            grid[_row(y, accuracy)][_cell(x, at, columns)] = glyph
        yield self._title(glyphs)
        labels = {_row(y, tick): y.label(tick) for tick in y.ticks(5)}
        for i, cells in enumerate(grid):
            yield Text(f"{labels.get(i, ''):>{LABEL_WIDTH - 1}} {''.join(cells)}")
        yield Text(" " * (LABEL_WIDTH - 1) + glyphs.corner + glyphs.axis * columns)
        yield Text(" " * LABEL_WIDTH + _tick_line(x, columns))

    def _title(self, glyphs: Glyphs) -> Text:
        shipped = f"  {glyphs.shipped} shipped" if self.shipped else ""
        key = f"  {glyphs.candidate} candidates  {glyphs.full} full{shipped}"
        judged = self.analysis.judged_in.capitalize()
        return Text.assemble((f"{judged} {self.metric} against {cost_axes(self.analysis)[0].name}", "bold"), key)


def _row(axis: Axis, value: float) -> int:
    return HEIGHT - 1 - _cell(axis, value, HEIGHT)


def _cell(axis: Axis, value: float, n_cells: int) -> int:
    return min(int(axis.place(value) * n_cells), n_cells - 1)


def _tick_line(axis: Axis, columns: int) -> str:
    """Tick labels, each centred below its place; those that would run into the one before are left out."""
    line = ""
    for tick in axis.ticks(6):
        label = axis.label(tick)
        start = round(axis.place(tick) * (columns - 1)) - len(label) // 2
        if start >= len(line) + (1 if line else 0) and start + len(label) <= columns:
            line = line.ljust(start) + label
    return line

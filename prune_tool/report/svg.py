"""Charts as inline SVG: no colours and no fonts of its own, all of that is the page's style sheet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap

from markupsafe import Markup

from prune_tool.report.chart import Band, Chart, Line, Mark, Points, Rule

TICK_GAP, MARK_SIZE = 6, 4.5
"""Pixels between an axis and its labels; radius of a mark."""

LETTER_WIDTH, TEXT_HEIGHT = 7.5, 13
"""Pixels that a name takes, a little more than most fonts need: nothing here can measure text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where a chart is drawn, in pixels: the picture, and the margins around the axes.

    Attributes:
        x_ticks, y_ticks: most ticks that fit.
        titles: whether the axes are named inside the picture.
    """

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: int
    y_ticks: int
    titles: bool = True


WIDE = Frame(width=960, height=430, left=58, right=24, top=18, bottom=52, x_ticks=9, y_ticks=7)
NARROW = Frame(width=358, height=336, left=46, right=14, top=16, bottom=64, x_ticks=4, y_ticks=6)
PANEL = Frame(width=228, height=150, left=38, right=16, top=8, bottom=22, x_ticks=4, y_ticks=4, titles=False)


def draw(chart: Chart, frame: Frame) -> Markup:
    """An ``<svg>`` element, labelled for whoever cannot see it."""
    pen = _Pen(chart, frame)
    marks = [pen.mark(mark) for mark in chart.marks]  # their names find their places first
    parts = [
        pen.axes(),
        *(pen.band(band) for band in chart.bands),
        *(pen.rule(rule) for rule in chart.rules),
        *(pen.line(line) for line in chart.lines),
        *marks,
    ]
    return _tag(
        "svg",
        *parts,
        viewBox=f"0 0 {frame.width} {frame.height}",
        role="img",
        aria_label=f"{chart.title}. {chart.summary}",
    )


def places(chart: Chart, frame: Frame) -> tuple[tuple[float, float], ...]:
    """Of every mark, its distance from the picture's left and top edge in per cent."""
    pen = _Pen(chart, frame)
    at = (pen.at(mark.x, mark.y) for mark in chart.marks)
    return tuple((round(100 * x / frame.width, 3), round(100 * y / frame.height, 3)) for x, y in at)


def _tag(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """One element; whatever is not markup is escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-") if key != "viewBox" else key, _number(value))
        for key, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(name, written, Markup("").join(children), name)


def _number(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


class _Pen:
    """Knows where the values of one chart lie in one frame."""

    def __init__(self, chart: Chart, frame: Frame) -> None:
        self.chart, self.frame = chart, frame
        self.right, self.bottom = frame.width - frame.right, frame.height - frame.bottom
        points = (self.at(mark.x, mark.y) for mark in chart.marks)
        self.taken = [(x - MARK_SIZE, y - MARK_SIZE, x + MARK_SIZE, y + MARK_SIZE) for x, y in points]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a pair of values; what lies outside of the axes is moved to their edge."""
        chart, frame = self.chart, self.frame
        along, up = (min(max(axis.place(v), 0.0), 1.0) for axis, v in ((chart.x, x), (chart.y, y)))
        return frame.left + along * (self.right - frame.left), self.bottom - up * (self.bottom - frame.top)

    def axes(self) -> Markup:
        frame, parts = self.frame, []
        for value in self.chart.y.ticks(frame.y_ticks):
            _, y = self.at(self.chart.x.low, value)
            parts.append(_tag("line", class_="grid", x1=frame.left, x2=self.right, y1=y, y2=y))
            label = self.chart.y.label(value)
            parts.append(_text(frame.left - TICK_GAP, y + 4, label, "tick", "end"))
        for value in self.chart.x.ticks(frame.x_ticks):
            x, _ = self.at(value, self.chart.y.low)
            parts.append(_tag("line", class_="axis", x1=x, x2=x, y1=self.bottom, y2=self.bottom + 4))
            parts.append(_text(x, self.bottom + 17, self.chart.x.label(value), "tick", "middle"))
        parts.append(_tag("line", class_="axis", x1=frame.left, x2=self.right, y1=self.bottom, y2=self.bottom))
        if frame.titles:
            middle = frame.width / 2
            for i, line in enumerate(wrap(self.chart.x.title, int(frame.width / LETTER_WIDTH))):
                parts.append(_text(middle, self.bottom + 40 + (TEXT_HEIGHT + 3) * i, line, "title", "middle"))
        return _tag("g", *parts, aria_hidden="true")

    def band(self, band: Band) -> Markup:
        there = [self.at(x, high) for x, _, high in band.edges]
        back = [self.at(x, low) for x, low, _ in reversed(band.edges)]
        return _tag("path", class_=f"band {band.tone}", d=_path([*there, *back]) + "Z")

    def rule(self, rule: Rule) -> Markup:
        _, y = self.at(self.chart.x.low, rule.y)
        line = _tag("line", class_="rule", x1=self.frame.left, x2=self.right, y1=y, y2=y)
        if not rule.label:
            return line
        below = y + 16 if y + 20 < self.bottom else y - 6
        return _tag("g", line, self.name(self.right - 4, below, rule.label, "note", "end"))

    def name(self, x: float, y: float, label: str, kind: str, anchor: str) -> Markup:
        """Text at a place, or as far below it as it takes to cover neither mark nor other name."""
        width = LETTER_WIDTH * len(label)
        left = x - width if anchor == "end" else min(x, self.frame.width - width)
        while any(left < x1 and left + width > x0 and y > y0 and y - TEXT_HEIGHT < y1 for x0, y0, x1, y1 in self.taken):
            y += 2
        self.taken.append((left, y - TEXT_HEIGHT, left + width, y))
        return _text(left + width if anchor == "end" else left, y, label, kind, anchor)

    def line(self, line: Line) -> Markup:
        points = [self.at(x, y) for x, y in (_stairs(line.points) if line.step else line.points)]
        return _tag("path", class_=f"line {line.tone}", d=_path(points))

    def mark(self, mark: Mark) -> Markup:
        x, y = self.at(mark.x, mark.y)
        size = MARK_SIZE
        if mark.shape == "diamond":
            side = 1.35 * size
            corners = [(x, y - side), (x + side, y), (x, y + side), (x - side, y)]
            shape = _tag("path", class_=f"mark {mark.tone}", d=_path(corners) + "Z")
        else:
            shape = _tag("circle", class_=f"mark {mark.tone}", cx=x, cy=y, r=size)
        if mark.shape == "ring":
            shape += _tag("circle", class_=f"ring {mark.tone}", cx=x, cy=y, r=2.2 * size)
        if not mark.label:
            return shape
        left = mark.side == "left"
        beside = x + (-1 if left else 1) * (2.2 * size + 3)
        return _tag("g", shape, self.name(beside, y + 19, mark.label, f"name {mark.tone}", "end" if left else "start"))


def _stairs(points: Points) -> Points:
    """Level until the next point, then straight up."""
    corners = [(after[0], before[1]) for before, after in pairwise(points)]
    return tuple(p for pair in zip(points, [*corners, points[-1]], strict=True) for p in pair)


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return _tag("text", text, class_=kind, x=float(x), y=float(y), text_anchor=anchor)

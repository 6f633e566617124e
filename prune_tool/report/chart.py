"""What a figure shows, apart from how it is drawn: axes with their ticks, and what lies between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Unit = Literal["count", "share", "ms", "bytes"]
Tone = Literal["accent", "ink"]
"""One colour and one grey; what matters most is ``accent``."""

Shape = Literal["dot", "ring", "diamond"]
Points = tuple[tuple[float, float], ...]
Side = Literal["left", "right"]

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f}"


def quantity(value: float, unit: Unit) -> str:
    """A number as a reader wants it: ``28.3 M``, ``84.3 %``, ``0.55 ms``; at most three digits that matter."""
    if unit == "share":
        return f"{_short(100 * value)} %"
    if unit == "ms":
        return f"{_short(value)} ms"
    size, prefix = next(((size, name) for size, name in PREFIXES if value >= 0.9995 * size), (1.0, ""))
    return f"{_short(value / size)} {prefix}{'B' if unit == 'bytes' else ''}".rstrip()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A range of one quantity.

    Attributes:
        title: what is measured.
        low, high: ends; ``0 < low < high`` where ``log``.
        unit: says how ticks are written.
        log: equal ratios are equally far apart.
    """

    title: str
    low: float
    high: float
    unit: Unit
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at ``low`` to 1 at ``high``."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def ticks(self, most: int) -> tuple[float, ...]:
        """Round numbers on the axis, ascending, at most ``most`` of them."""
        choices = _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)
        return next(ticks for ticks in choices if len(ticks) <= most)

    def label(self, value: float) -> str:
        """A tick's label."""
        return quantity(value, self.unit)


def around(values: list[float], *, title: str, unit: Unit, log: bool = False, margin: float = 0.08) -> Axis:
    """An axis that holds all the values, with a margin (a share of their span) at both ends; no share is above 1."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** margin, 1.1)
        return Axis(title=title, low=low / factor, high=high * factor, unit=unit, log=True)
    pad = margin * (high - low) or 0.01
    most = max(high, 1.0) if unit == "share" else high + pad
    return Axis(title=title, low=low - pad, high=min(high + pad, most), unit=unit)


def _log_ticks(low: float, high: float) -> list[tuple[float, ...]]:
    """Ever sparser choices of ticks: 1-2-5 a decade, then 1-3, then decades, every second one, and so on."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    dense = [((1, 1.5, 2, 3, 4, 5, 7), 1), ((1, 2, 5), 1), ((1, 3), 1)]
    steps = [*dense, *(((1,), every) for every in range(1, len(decades) + 1))]
    choices = [
        tuple(m * 10.0**d for d in decades[::every] for m in multiples if low <= m * 10.0**d <= high)
        for multiples, every in steps
    ]
    return [ticks for ticks in choices if len(ticks) >= 2] + [choices[-1][:1]]


def _linear_ticks(low: float, high: float) -> list[tuple[float, ...]]:
    finest = 10.0 ** math.floor(math.log10(high - low) - 1)
    choices = []
    for step in (finest * m * 10**d for d in range(3) for m in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        choices.append(tuple(i * step for i in range(first, last + 1)))
    return choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points joined. ``step``: level until the next point. ``label`` is for a key beside the figure."""

    points: Points
    tone: Tone
    step: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A range of y along x: (x, low, high)."""

    edges: tuple[tuple[float, float, float], ...]
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A level, across the whole width, named below its right end."""

    y: float
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point of its own, with its name below it, to one side."""

    x: float
    y: float
    tone: Tone
    shape: Shape = "dot"
    label: str = ""
    side: Side = "right"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One figure. ``summary`` says in words what it shows, to whoever cannot see it."""

    title: str
    summary: str
    x: Axis
    y: Axis
    bands: tuple[Band, ...] = ()
    rules: tuple[Rule, ...] = ()
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()

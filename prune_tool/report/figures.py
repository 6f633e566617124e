"""The figures of a run: which numbers each shows, and what it says in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prune_tool.pipeline.results import Results
from prune_tool.records import Analysis, Candidate, Comparison, MeasuredReading, Request, Trunk
from prune_tool.report.chart import Axis, Band, Chart, Line, Mark, Points, Rule, Tone, Unit, around, quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class CostAxis:
    """Something that a smaller network saves.

    Attributes:
        name: in a word.
        title: of the axis.
        unit: of its values.
        of: its value for a candidate, and for the full backbone.
    """

    name: str
    title: str
    unit: Unit
    of: Callable[[Candidate], float]
    full: Callable[[Analysis], float]


_COUNTED = (
    CostAxis(
        name="MACs",
        title="multiply-accumulates per image",
        unit="count",
        of=lambda candidate: candidate.macs,
        full=lambda analysis: analysis.full.macs,
    ),
    CostAxis(
        name="parameters",
        title="parameters",
        unit="count",
        of=lambda candidate: candidate.n_params,
        full=lambda analysis: analysis.full.n_params,
    ),
    CostAxis(
        name="size",
        title="file size (float32, predicted)",
        unit="bytes",
        of=lambda candidate: candidate.n_bytes,
        full=lambda analysis: analysis.full.n_bytes,
    ),
)


def cost_axes(analysis: Analysis) -> tuple[CostAxis, ...]:
    """The axes of the frontier's figure: latency first, where it was measured."""
    timed = analysis.timed
    if timed is None:
        return _COUNTED
    latency = CostAxis(
        name="latency",
        title=f"latency a call (predicted; {timed.target.provider}, batch {timed.target.batch_size})",
        unit="ms",
        of=lambda candidate: candidate.latency_ms or timed.full_ms,
        full=lambda _: timed.full_ms,
    )
    return latency, *_COUNTED


def metric_name(request: Request) -> str:
    """``accuracy`` or ``balanced accuracy``, as words."""
    return request.metric.replace("-", " ")


def shown_candidates(results: Results) -> tuple[Candidate, ...]:
    """The frontier and what was shipped, cheapest first: the latter may have been shrunk to the budget."""
    shipped = () if results.exported is None else (results.exported.built.candidate,)
    cost = results.record.request.cost
    return tuple(sorted({*results.candidates, *shipped}, key=lambda candidate: candidate.cost(cost)))


def frontier_chart(results: Results, cost: CostAxis) -> Chart:
    """Accuracy against a cost. The marks are ``shown_candidates`` in order, then the full backbone."""
    analysis, candidates, full = results.analysis, shown_candidates(results), results.analysis.full
    exported, metric = results.exported, metric_name(results.record.request)
    shipped = None if exported is None else exported.built.candidate
    full_cost = cost.full(analysis)
    rules = [Rule(y=full.val.accuracy)]
    if exported is not None and (budget := exported.certificate.test.budget).loss > 0:
        floor = budget.floor(full.val)
        rules.append(Rule(y=floor, label=f"budget, {budget} less: {100 * floor:.1f} %"))
    levels = [c.val.accuracy for c in candidates] + [rule.y for rule in rules]
    costs = [*(cost.of(c) for c in candidates), full_cost]
    marks = [
        Mark(
            x=cost.of(c),
            y=c.val.accuracy,
            tone="accent",
            shape="ring" if c == shipped else "dot",
            label=f"shipped: {_less(full_cost, cost.of(c), cost.unit)}" if c == shipped else "",
        )
        for c in candidates
    ]
    marks.append(
        Mark(
            x=full_cost,
            y=full.val.accuracy,
            tone="ink",
            shape="diamond",
            label=f"full: {100 * full.val.accuracy:.1f} %",
            side="left",
        )
    )
    best = f"{100 * max(levels):.1f} %"
    return Chart(
        title=f"{analysis.judged_in.capitalize()} {metric} against {cost.title}",
        summary=f"{len(candidates)} candidates from {quantity(min(costs), cost.unit)} to"
        f" {quantity(max(costs[:-1]), cost.unit)}, the best at {best}; the full backbone has"
        f" {quantity(full_cost, cost.unit)} and {100 * full.val.accuracy:.1f} %",
        x=around(costs, title=f"{cost.title} (log scale)", unit=cost.unit, log=True),
        y=around(levels, title=f"{analysis.judged_in} {metric}", unit="share"),
        rules=tuple(rules),
        lines=(Line(points=_front(candidates, cost), tone="accent", step=True),),
        marks=tuple(marks),
    )


def _less(full: float, kept: float, unit: Unit) -> str:
    return f"{full / kept:.1f}× {_LESS.get(unit, 'fewer')}"


_LESS: dict[Unit, str] = {"ms": "faster", "bytes": "smaller"}


def _front(candidates: Sequence[Candidate], cost: CostAxis) -> Points:
    """Those that nothing cheaper equals, in the order of cost."""
    best: list[tuple[float, float]] = []
    for x, y in sorted((cost.of(c), c.val.accuracy) for c in candidates):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return tuple(best)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Accuracy against the share of neurons kept, for all that can be read at one cut.

    Attributes:
        cut: where the network ends.
        layer, pool: what was measured there; there is no pool at the first tap.
        chart: both curves, with their spread over draws and critical sizes.
    """

    cut: str
    layer: MeasuredReading | None
    pool: MeasuredReading | None
    chart: Chart


def panels(results: Results, trunk: Trunk) -> tuple[Panel, ...]:
    """One for each cut of a trunk, in the order of computation, all on the same axes."""
    analysis, metric = results.analysis, metric_name(results.record.request)
    found = [m for m in analysis.measured if m.reading.trunk == trunk]
    y = around([a for m in analysis.measured for a in m.accuracy], title=metric, unit="share", margin=0.04)
    low = min(m.sizes[0] / m.reading.width for m in found)
    x = Axis(title="share of neurons kept (log scale)", low=low, high=1.0, unit="share", log=True)
    made = []
    for cut in dict.fromkeys(m.reading.cut for m in found):
        here = {m.reading.kind: m for m in found if m.reading.cut == cut}
        layer, pool = here.get("layer"), here.get("pool")
        made.append(Panel(cut=cut, layer=layer, pool=pool, chart=_panel_chart(cut, layer, pool, x, y)))
    return tuple(made)


def _panel_chart(cut: str, layer: MeasuredReading | None, pool: MeasuredReading | None, x: Axis, y: Axis) -> Chart:
    curves: list[tuple[str, MeasuredReading, Tone]] = []
    if layer is not None:
        curves.append(("layer", layer, "ink"))
    if pool is not None:
        curves.append(("pooled", pool, "accent"))
    said = (
        f"{name}: {100 * m.accuracy[-1]:.1f} % with all {m.reading.width:,} neurons, {m.critical_size:,} keep the"
        " analysis' share of it"
        for name, m, _ in curves
    )
    return Chart(
        title=f"{y.title} against {x.title}, cut after {cut}",
        summary="; ".join(said),
        x=x,
        y=y,
        bands=tuple(Band(edges=_spread(m), tone=tone) for _, m, tone in curves),
        lines=tuple(Line(points=_curve(m), tone=tone, label=name) for name, m, tone in curves),
        marks=tuple(Mark(x=m.critical_size / m.reading.width, y=_critical(m), tone=tone) for _, m, tone in curves),
    )


def _curve(measured: MeasuredReading) -> Points:
    shares = (size / measured.reading.width for size in measured.sizes)
    return tuple(zip(shares, measured.accuracy, strict=True))


def _critical(measured: MeasuredReading) -> float:
    return float(np.interp(measured.critical_size, measured.sizes, measured.accuracy))


def _spread(measured: MeasuredReading) -> tuple[tuple[float, float, float], ...]:
    """One standard deviation over draws to both sides of the mean."""
    accuracy = np.array(measured.n_correct) / measured.n_val
    mean, std = accuracy.mean(axis=0), accuracy.std(axis=0)
    shares = np.array(measured.sizes) / measured.reading.width
    return tuple(zip(shares.tolist(), (mean - std).tolist(), (mean + std).tolist(), strict=True))


def comparison_charts(comparisons: Sequence[Comparison], request: Request) -> tuple[Chart, ...]:
    """Every other way to take numbers from the penultimate layer, each against random neurons (the first)."""
    metric, (random, *others) = metric_name(request), comparisons
    low = min(c.sizes[0] / c.sizes[-1] for c in comparisons)
    x = Axis(title="share taken (log scale)", low=low, high=1.0, unit="share", log=True)
    y = around([a for c in comparisons for a in c.accuracy], title=metric, unit="share", margin=0.04)
    return tuple(
        Chart(
            title=other.name,
            summary=f"{metric} at a tenth: {_at_a_tenth(other)} against {_at_a_tenth(random)} of {random.name}",
            x=x,
            y=y,
            lines=(
                Line(points=_compared(other), tone="ink", label="the way named"),
                Line(points=_compared(random), tone="accent", label=random.name),
            ),
        )
        for other in others
    )


def _compared(comparison: Comparison) -> Points:
    width = comparison.sizes[-1]
    return tuple((k / width, a) for k, a in zip(comparison.sizes, comparison.accuracy, strict=True))


def _at_a_tenth(comparison: Comparison) -> str:
    at = float(np.interp(comparison.sizes[-1] / 10, comparison.sizes, comparison.accuracy))
    return f"{100 * at:.1f} %"

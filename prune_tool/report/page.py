"""What the page shows, put together: headline, the frontier's figures with their cards, panels, rows of tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prune_tool.deploy.bench import Timing
from prune_tool.pipeline.bench import FULL, KEPT
from prune_tool.pipeline.results import Results
from prune_tool.records import Candidate, MeasuredReading, Trunk
from prune_tool.report import figures, svg
from prune_tool.report.chart import percent
from prune_tool.report.reproduce import export_command, tightest_budget

MOST_SPREAD = 1.5
"""Ratio of the ends of a speed-up's interval from which it is called unsteady; a quiet machine stays below 1.2."""

BADGES = {"certified": "Certified", "not met": "Budget not met", "cannot certify": "Not certified"}
"""What stands before the certificate's sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number of the headline: what it is, and what it was before."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate in the table and on the cards of the figures.

    Attributes:
        anchor: of its row; marks link to it.
        name: where it is cut and what it reads.
        shipped: it is what ``model.onnx`` holds.
        option: of ``export`` under which it is the cheapest allowed.
        command: the whole.
    """

    anchor: str
    name: str
    candidate: Candidate
    width: int
    shipped: bool
    option: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A place on a figure that answers to pointer and keyboard; ``row`` None: the full backbone."""

    row: Row | None
    left: float
    top: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure in one size."""

    size: str
    svg: Markup
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierFigure:
    """The frontier over one cost, for wide and for narrow pages."""

    name: str
    plots: tuple[Plot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelFigure:
    """A small multiple: its caption, the drawing, and what was measured."""

    name: str
    svg: Markup
    layer: MeasuredReading | None = None
    pool: MeasuredReading | None = None


def rows(results: Results) -> tuple[Row, ...]:
    """Every candidate, cheapest first, the shipped one among them."""
    shipped = None if results.exported is None else results.exported.built.candidate
    made = []
    for i, candidate in enumerate(figures.shown_candidates(results)):
        reading = results.analysis.measured[candidate.reading].reading
        budget = tightest_budget(candidate, results.candidates, results.analysis.full.val)
        made.append(
            Row(
                anchor=f"candidate-{i + 1}",
                name=str(reading) if candidate.precision == "fp32" else f"{reading}, {candidate.precision}",
                candidate=candidate,
                width=reading.width,
                shipped=candidate == shipped,
                option=f"--budget {budget.spelled}",
                command=export_command(results, budget),
            )
        )
    return tuple(made)


def frontier_figures(results: Results, table: Sequence[Row]) -> tuple[FrontierFigure, ...]:
    """Accuracy against each cost."""
    made = []
    for cost in figures.cost_axes(results.analysis):
        chart = figures.frontier_chart(results, cost)
        plots = []
        for size, frame in (("wide", svg.WIDE), ("narrow", svg.NARROW)):
            where = zip([*table, None], svg.places(chart, frame), strict=True)
            hits = tuple(Hit(row=row, left=left, top=top) for row, (left, top) in where)
            plots.append(Plot(size=size, svg=svg.draw(chart, frame), hits=hits))
        made.append(FrontierFigure(name=cost.name, plots=tuple(plots)))
    return tuple(made)


def panel_figures(results: Results) -> tuple[tuple[Trunk, tuple[PanelFigure, ...]], ...]:
    """Small multiples of every trunk, the backbone as it came first."""
    trunks = dict.fromkeys(m.reading.trunk for m in results.analysis.measured)
    return tuple(
        (
            trunk,
            tuple(
                PanelFigure(name=panel.cut, svg=svg.draw(panel.chart, svg.PANEL), layer=panel.layer, pool=panel.pool)
                for panel in figures.panels(results, trunk)
            ),
        )
        for trunk in trunks
    )


def comparison_figures(results: Results) -> tuple[PanelFigure, ...]:
    """Small multiples of the other ways to take numbers, where they were measured."""
    if not results.analysis.comparisons:
        return ()
    charts = figures.comparison_charts(results.analysis.comparisons, results.record.request)
    return tuple(PanelFigure(name=chart.title, svg=svg.draw(chart, svg.PANEL)) for chart in charts)


def tiles(results: Results) -> tuple[Tile, ...]:
    """The headline's numbers, as far as there are any."""
    exported, full = results.exported, results.analysis.full
    if exported is None:
        return (
            Tile(
                name=f"full backbone at {full.input_size} px",
                value=f"{percent(full.val.accuracy)} %",
                note=f"{results.analysis.judged_in} {figures.metric_name(results.record.request)}",
            ),
        )
    built, test = exported.built, exported.certificate.test
    candidate = built.candidate
    return (
        *_speed(results),
        Tile(
            name="fewer MACs",
            value=f"{full.macs / candidate.macs:.1f}×",
            note=f"{candidate.macs / 1e6:,.1f} M of {full.macs / 1e6:,.0f} M",
        ),
        Tile(
            name="fewer parameters",
            value=f"{full.n_params / candidate.n_params:.1f}×",
            note=f"{candidate.n_params / 1e6:.2f} M of {full.n_params / 1e6:.2f} M",
        ),
        Tile(
            name=f"test {figures.metric_name(results.record.request)}",
            value=f"{percent(test.kept.accuracy)} %",
            note=f"full backbone {percent(test.full.accuracy)} %",
        ),
        Tile(name="file", value=f"{built.n_bytes / 1e6:.1f} MB", note=_full_file(results)),
    )


def _speed(results: Results) -> tuple[Tile, ...]:
    """At the smallest batch that was timed."""
    if results.bench is None:
        return ()
    first = min(timing.batch_size for timing in results.bench.timings)
    at = {timing.contender: timing for timing in results.bench.timings if timing.batch_size == first}
    kept = at[KEPT]
    return (
        Tile(
            name=f"faster at batch {first}",
            value=f"{kept.speedup.median:.1f}×",
            note=f"{'unsteady: ' * unsteady(kept)}{kept.speedup.low:.1f}× to {kept.speedup.high:.1f}× (95 %)",
        ),
    )


def unsteady(timing: Timing) -> bool:
    """Whether a speed-up is known too badly to be quoted."""
    return timing.speedup.high > MOST_SPREAD * timing.speedup.low


def _full_file(results: Results) -> str:
    n_bytes = {c.name: c.file_bytes for c in results.bench.contenders}.get(FULL) if results.bench else None
    return "float32 ONNX" if n_bytes is None else f"full backbone {n_bytes / 1e6:.1f} MB"


def missing(results: Results, trouble: str | None) -> tuple[tuple[str, str], ...]:
    """What the page leaves out: what it is, and the command that makes it or the reason."""
    run, analysed = (shlex.quote(str(each.path)) for each in (results.run, results.run.analysed))
    if results.run.budgets and results.exported is None:
        return tuple(
            (f"The page of the file for the budget {each.name}", shlex.join(["prune-tool", "report", str(each.path)]))
            for each in results.run.budgets
        )
    if results.exported is None:
        return (("A smaller file, its test and its certificate", f"prune-tool export {run} --budget 0.05"),)
    lines = []
    if results.predictions is None:
        lines.append(("Predictions on the test images", f"prune-tool export {analysed} --budget 0.05"))
    if results.bench is None:
        lines.append(("Latency of this file", f"prune-tool bench {run}"))
    if trouble is not None:
        lines.append(("Images that the two disagree on", trouble))
    return tuple(lines)

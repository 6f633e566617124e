"""The page's figures as PNG and SVG files for papers, drawn by matplotlib."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_tool.errors import UsageError
from prune_tool.pipeline.results import Results
from prune_tool.records import Trunk
from prune_tool.report.chart import Chart, Line
from prune_tool.report.figures import comparison_charts, cost_axes, frontier_chart, panels
from prune_tool.store.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
DOTS_PER_INCH = 300
COLUMN_INCHES = 3.4
"""Width of a column of a two-column paper."""

PANELS_ACROSS = 4
COLOURS = {"accent": "#0b5cc4", "ink": "#59636e", "muted": "#8a939c"}
"""One colour and greys, told apart by lightness alone in print."""

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#59636e",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dfe4ea",
    "grid.linewidth": 0.5,
    "xtick.color": "#333a42",
    "ytick.color": "#333a42",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "prune-tool",  # the same figure is the same file
}


def require_matplotlib() -> None:
    """Raise ``UsageError`` where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        remedy = "Run: pip install 'prune-tool[plots]'"
        raise UsageError(asked="draw plots", found="matplotlib is not installed", remedy=remedy)


def write_plots(results: Results, folder: Path) -> tuple[Path, ...]:
    """Write every figure into a folder, which is made if need be.

    Raises:
        UsageError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    require_matplotlib()
    from matplotlib import style  # noqa: PLC0415 - an extra

    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    with style.context(STYLE):
        for name, figure in _figures(results).items():
            for suffix in FORMATS:
                path = folder / f"{name}.{suffix}"
                with replacing(path) as partial:
                    figure.savefig(partial, dpi=DOTS_PER_INCH, metadata={"Date": None} if suffix == "svg" else None)
                written.append(path)
    return tuple(written)


def _figures(results: Results) -> dict[str, Figure]:
    drawn = {
        f"frontier-{cost.name.lower()}": _single(frontier_chart(results, cost)) for cost in cost_axes(results.analysis)
    }
    for trunk in results.record.trunks:
        shown = panels(results, trunk)
        drawn[f"redundancy-{_file_name(trunk)}"] = _grid([(panel.cut, panel.chart) for panel in shown])
    if results.analysis.comparisons:
        charts = comparison_charts(results.analysis.comparisons, results.record.request)
        drawn["comparisons"] = _grid([(chart.title, chart) for chart in charts])
    return drawn


def _file_name(trunk: Trunk) -> str:
    return f"{trunk.input_size}px" + ("" if trunk.narrow is None else f"-narrow{100 * trunk.narrow:g}")


def _single(chart: Chart) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(COLUMN_INCHES * 1.5, COLUMN_INCHES), layout="constrained")
    axes = figure.subplots()
    _draw(axes, chart, 8)
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    return figure


def _grid(charts: list[tuple[str, Chart]]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    n_rows = -(-len(charts) // PANELS_ACROSS)
    figure = Figure(figsize=(2.1 * COLUMN_INCHES, 1.35 * n_rows + 0.4), layout="constrained")
    cells = list(figure.subplots(n_rows, PANELS_ACROSS, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, chart) in zip(cells, charts, strict=False):
        _draw(axes, chart, 4)
        axes.set_title(name, fontsize=7, loc="left")
    for axes in cells[len(charts) :]:
        axes.set_visible(False)
    for axes in cells[max(0, len(charts) - PANELS_ACROSS) : len(charts)]:
        axes.tick_params(labelbottom=True)  # what stands below them may be empty
    fullest = max(range(len(charts)), key=lambda i: len(charts[i][1].lines))
    handles, labels = cells[fullest].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8)
    figure.supxlabel(charts[0][1].x.title, fontsize=8)
    figure.supylabel(charts[0][1].y.title, fontsize=8)
    return figure


def _draw(axes: Axes, chart: Chart, most_ticks: int) -> None:
    if chart.x.log:
        axes.set_xscale("log")
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)
    axes.minorticks_off()
    x_ticks, y_ticks = chart.x.ticks(most_ticks), chart.y.ticks(6)
    axes.set_xticks(x_ticks, [chart.x.label(tick) for tick in x_ticks])
    axes.set_yticks(y_ticks, [chart.y.label(tick) for tick in y_ticks])
    for band in chart.bands:
        x, low, high = zip(*band.edges, strict=True)
        axes.fill_between(x, low, high, color=COLOURS[band.tone], alpha=0.18, linewidth=0)
    for rule in chart.rules:
        axes.axhline(rule.y, color=COLOURS["muted"], linewidth=0.7, linestyle=(0, (1, 2)))
        end = (chart.x.high, rule.y)
        axes.annotate(rule.label, end, (-2, -3), textcoords="offset points", ha="right", va="top", fontsize=7)
    for line in chart.lines:
        _line(axes, line)
    for mark in chart.marks:
        shape = {"dot": "o", "ring": "o", "diamond": "D"}[mark.shape]
        colour = "#15191e" if mark.shape == "diamond" else COLOURS[mark.tone]
        axes.plot([mark.x], [mark.y], shape, color=colour, markersize=3, clip_on=False)
        if mark.shape == "ring":
            axes.plot([mark.x], [mark.y], "o", color=colour, markersize=7, markerfacecolor="none", clip_on=False)
        side = -6 if mark.side == "left" else 6
        align = "right" if side < 0 else "left"
        axes.annotate(
            mark.label, (mark.x, mark.y), (side, -9), textcoords="offset points", ha=align, color=colour, weight="bold"
        )


def _line(axes: Axes, line: Line) -> None:
    x, y = zip(*line.points, strict=True)
    style = "steps-post" if line.step else "default"
    axes.plot(x, y, color=COLOURS[line.tone], linewidth=1.2, drawstyle=style, label=line.label or None)

"""What ``report`` says of what it wrote."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from prune_tool.pipeline.results import Results
from prune_tool.report.figures import metric_name
from prune_tool.report.html import Report
from prune_tool.report.terminal import FrontierPlot


def report_tables(report: Report, results: Results) -> Sequence[RenderableType]:
    """The frontier and the certificate once more, and where the page is."""
    exported = results.exported
    plot = FrontierPlot(
        analysis=results.analysis,
        candidates=results.candidates,
        metric=metric_name(results.record.request),
        shipped=None if exported is None else exported.built.candidate,
    )
    sentence = [] if exported is None else [Text(exported.sentence)]
    return [plot, *sentence, written_table(report)]


def written_table(report: Report) -> Text:
    """Where the page is, what it leaves out, and where the plots are."""
    lines = [f"Report written to {report.path}", *(f"  without {missing}" for missing in report.missing)]
    if report.plots:
        lines.append(f"Plots written to {report.plots[0].parent}: {', '.join(path.name for path in report.plots)}")
    return Text("\n".join(lines))

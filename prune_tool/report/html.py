"""``report.html``: everything about a run on one page that needs nothing else, neither network nor scripts."""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from prune_tool.errors import PruneToolError, RunError
from prune_tool.pipeline.disagreements import Sample, sample_disagreements
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.pipeline.results import Results, read_results
from prune_tool.pipeline.workspace import Workspace
from prune_tool.report import classes, page
from prune_tool.report.chart import percent, quantity
from prune_tool.report.figures import cost_axes, metric_name
from prune_tool.report.plots import require_matplotlib, write_plots
from prune_tool.report.reproduce import bench_command, commands
from prune_tool.store.atomic import replacing
from prune_tool.store.layout import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page that was written.

    Attributes:
        path: of the page.
        missing: what it leaves out, each with the reason or the command that makes it.
        plots: further files, where they were asked for.
    """

    path: Path
    missing: tuple[str, ...]
    plots: tuple[Path, ...] = ()


def write_report(
    run: RunFolder, *, workspace: Workspace | None = None, plots: bool = False, progress: Progress | None = None
) -> Report:
    """Write ``report.html`` of a run, as far as the run has come.

    Args:
        run: from ``analyze``, and from ``export`` and ``bench`` where they have been run.
        workspace: of the run's request, if one is open already; by default one is opened for the images shown.
        plots: also write the figures as PNG and SVG, into the run's folder of plots.
        progress: who watches.

    Raises:
        UsageError: plots were asked for, and matplotlib is not installed.
        RunError: the run is damaged, or the page cannot be written.
    """
    if plots:
        require_matplotlib()
    results = read_results(run)
    progress = progress or Silent()
    with progress.stage("writing the report"):
        samples, trouble = _samples(results, workspace, progress)
        text = render(results, samples, trouble)
        try:
            with replacing(run.report) as partial:
                partial.write_text(text, encoding="utf-8")
            drawn = write_plots(results, run.plots) if plots else ()
        except OSError as error:
            raise RunError(
                asked=f"write the report of {run.path}",
                found=error.strerror or str(error),
                remedy="Free some space or make the folder writable",
            ) from error
    left_out = tuple(f"{what}: {how}" for what, how in page.missing(results, trouble))
    return Report(path=run.report, missing=left_out, plots=drawn)


def _samples(
    results: Results, workspace: Workspace | None, progress: Progress
) -> tuple[tuple[Sample, ...], str | None]:
    """Images that the two disagree on, or why there are none to show."""
    if results.predictions is None:
        return (), None
    try:
        opened = workspace or Workspace(replace(results.record.request, device="cpu"), progress)
        return sample_disagreements(opened, results.run, results.record, results.predictions), None
    except PruneToolError as error:
        return (), str(error)


def render(results: Results, samples: tuple[Sample, ...] = (), trouble: str | None = None) -> str:
    """The page as text.

    Args:
        results: of a run.
        samples: images that the two disagree on.
        trouble: why they cannot be shown, if so.
    """
    table = page.rows(results)
    return (
        _environment()
        .get_template("report.html")
        .render(
            results=results,
            rows=table,
            tiles=page.tiles(results),
            badge=page.BADGES,
            frontier=page.frontier_figures(results, table),
            panels=page.panel_figures(results),
            comparisons=page.comparison_figures(results),
            missing=page.missing(results, trouble),
            samples=samples,
            metric=metric_name(results.record.request),
            commands=commands(results),
            bench_again=bench_command(results.run, results.bench) if results.bench else None,
            export=shlex.join(["prune-tool", "export", str(results.run.analysed.path)]),
            classes=classes,
            most_tabs=max(len(results.record.trunks), len(cost_axes(results.analysis))),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("prune_tool.report"),
        autoescape=True,  # class names and paths come from whoever made the images
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["unsteady"] = page.unsteady
    environment.filters |= {
        "percent": lambda share: f"{percent(share)} %",
        "number": lambda value: f"{value:,}",
        "quantity": quantity,
        "data_uri": lambda jpeg: f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}",
        "short_name": short_name,
        "tiny": lambda value: f"{value:.0e}" if value else "0",
        "unbroken": lambda text: text.replace(" %", "\u00a0%"),
    }
    return environment


def short_name(name: str) -> str:
    """The last two parts of a path: the class folder and the file."""
    return "/".join(Path(name).parts[-2:])

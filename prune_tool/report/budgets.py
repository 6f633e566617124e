"""Files of several budgets as tables for people: each by itself, then beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.pipeline.exported import Exported
from prune_tool.records import Analysis
from prune_tool.report.chart import percent
from prune_tool.report.tables import export_tables
from prune_tool.store.layout import RunFolder


def budget_tables(
    exported: Mapping[RunFolder, Exported], analysis: Analysis, classes: Sequence[str]
) -> list[RenderableType]:
    """What ``export`` wrote for each budget."""
    tables: list[RenderableType] = []
    for run, each in exported.items():
        tables += [Text(f"Budget {run.name}", style="bold"), *export_tables(each, analysis, classes, run)]
    return [*tables, _beside(exported, analysis)]


def _beside(exported: Mapping[RunFolder, Exported], analysis: Analysis) -> Table:
    """One line a budget. Every certificate holds at its own level, so nothing is said of all of them together."""
    full = analysis.full
    table = Table(title="Budgets, each certified by itself", title_justify="left", title_style="bold")
    for i, header in enumerate(("folder", "budget", "acc. %", "of full %", "MACs fewer", "MB", "certificate")):
        table.add_column(header, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for run, each in exported.items():
        test = each.certificate.test
        share = percent(test.kept.accuracy / test.full.accuracy) if test.full.n_correct else ""
        table.add_row(
            str(run.path),
            str(test.budget),
            percent(test.kept.accuracy),
            share,
            f"{full.macs / each.built.candidate.macs:.1f}x",
            f"{each.built.n_bytes / 1e6:.2f}",
            each.certificate.state,
        )
    return table

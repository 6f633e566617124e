"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.deploy.verify import Stage
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.build import Built
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.runs import RunRecord
from prune_tool.records import Analysis, Candidate, MeasuredReading, Request, Trunk
from prune_tool.redundancy.fairness import Fairness
from prune_tool.report.chart import percent
from prune_tool.report.terminal import FrontierPlot
from prune_tool.store.layout import RunFolder


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right", no_wrap=i == 0)
    return table


def analysis_tables(analyzed: Analyzed, *, nearest: bool = False) -> Sequence[RenderableType]:
    """What ``analyze`` found: the task, redundancy at the backbone's own input size, the frontier.

    ``nearest`` shows redundancy by the authors' rule instead of the definition.
    """
    record, analysis = analyzed.record, analyzed.analysis
    full = analysis.full
    head = Text.assemble(
        (f"{record.model} on {record.data}", "bold"),
        f": {record.n_train:,} train, {record.n_val:,} val, {record.n_test:,} test images of {len(record.classes)}"
        f" classes ({record.splits}{_left_out(record)})\n"
        f"full backbone at {full.input_size} px: {_metric(record.request)} {full.val} in {analysis.judged_in}, "
        f"{full.macs / 1e6:,.0f} M MACs, {full.n_params / 1e6:.2f} M parameters",
    )
    where = Text(f"Written to {analyzed.run.path}")
    compared = [_comparison_table(analysis)] if analysis.comparisons else []
    return [
        head,
        _redundancy_table(analysis, nearest=nearest),
        *compared,
        frontier_table(analysis, analyzed.frontier()),
        FrontierPlot(analysis=analysis, candidates=analyzed.frontier(), metric=_metric(record.request)),
        Text(_searched(analysis)),
        where,
    ]


def _metric(request: Request) -> str:
    return request.metric.replace("-", " ")


def _left_out(record: RunRecord) -> str:
    """How many images are in none of the splits, and why."""
    reasons = {"cannot be decoded": record.n_bad_images, "are copies of held-out ones": record.n_duplicates_dropped}
    return "".join(f"; {n:,} that {why} left out" for why, n in reasons.items() if n)


def _redundancy_table(analysis: Analysis, *, nearest: bool) -> Table:
    """Layers and pools at the backbone's own input size; the others are in ``analysis.json``."""
    full, measure = analysis.full, "DR near" if nearest else "DR"
    found = [m for m in analysis.measured if m.reading.trunk == Trunk(input_size=full.input_size)]
    pools = {m.reading.cut: m for m in found if m.reading.kind == "pool"}
    table = _table(
        f"Redundancy at {full.input_size} px: random subsets keeping {100 * analysis.delta:g} % of a layer's accuracy",
        "cut after", "width", "acc. %", "critical", measure,
        "pooled", "acc. %", "critical", measure, "MACs -%", "params -%",
    )  # fmt: skip
    for layer in (m for m in found if m.reading.kind == "layer"):
        pool = pools.get(layer.reading.cut)
        saved = (1 - layer.macs / full.macs, 1 - layer.n_params / full.n_params)
        pooled = ("", "", "", "") if pool is None else _redundancy_cells(pool, nearest=nearest)
        table.add_row(layer.reading.cut, *_redundancy_cells(layer, nearest=nearest), *pooled, *map(percent, saved))
    return table


def _redundancy_cells(measured: MeasuredReading, *, nearest: bool) -> tuple[str, str, str, str]:
    width = measured.reading.width
    return (
        f"{width:,}",
        percent(measured.accuracy[-1]),
        f"{measured.critical_size:,} ±{measured.critical_size_std:.0f}",
        f"{measured.redundancy_nearest if nearest else measured.redundancy:.2f}",
    )


def _comparison_table(analysis: Analysis) -> Table:
    """Accuracy of every way to take numbers from the penultimate layer, at round shares of it."""
    shares = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
    table = _table(
        "Penultimate layer: ridge accuracy (CKA) at a share of it", "taken", *(f"{100 * share:g} %" for share in shares)
    )
    for comparison in analysis.comparisons:
        sizes = np.array(comparison.sizes)
        cells = []
        for share in shares:
            i = int(np.abs(sizes - share * sizes[-1]).argmin())
            similarity = "" if comparison.cka is None else f" ({comparison.cka[i]:.2f})"
            cells.append(f"{percent(comparison.accuracy[i])}{similarity}")
        table.add_row(comparison.name, *cells)
    return table


def frontier_table(analysis: Analysis, candidates: Sequence[Candidate]) -> Table:
    """Accuracy against cost of what could ship, cheapest first."""
    full = analysis.full
    table = _table(
        f"Frontier: converged probes on random subsets, accuracy in {analysis.judged_in}",
        "cut", "neurons", "of", "acc. %", "of full %", *_cost_headers(analysis), "MACs (M)", "MACs -%", "params (M)",
    )  # fmt: skip
    for candidate in candidates:
        reading = analysis.measured[candidate.reading].reading
        table.add_row(
            str(reading),
            f"{candidate.n_neurons:,}",
            f"{reading.width:,}",
            percent(candidate.val.accuracy),
            percent(candidate.val.accuracy / full.val.accuracy),
            *_cost_cells(analysis, candidate),
            f"{candidate.macs / 1e6:,.1f}",
            percent(1 - candidate.macs / full.macs),
            f"{candidate.n_params / 1e6:.2f}",
        )
    return table


def _cost_headers(analysis: Analysis) -> tuple[str, str]:
    return ("MB", "smaller") if analysis.timed is None else ("ms", "faster")


def _cost_cells(analysis: Analysis, candidate: Candidate) -> tuple[str, str]:
    """Predicted milliseconds and how many times faster than the full backbone; of the file where nothing was timed."""
    if analysis.timed is None or candidate.latency_ms is None:
        return f"{candidate.n_bytes / 1e6:.2f}", f"{analysis.full.n_bytes / candidate.n_bytes:.1f}x"
    return f"{candidate.latency_ms:.2f}", f"{analysis.timed.full_ms / candidate.latency_ms:.1f}x"


def _searched(analysis: Analysis) -> str:
    """What the search considered and measured."""
    search, timed = analysis.search, analysis.timed
    on = ""
    if timed is not None:
        how = f"{timed.target.provider}, batch {timed.target.batch_size}, {timed.target.n_threads} threads"
        on = f", {search.n_timed} networks timed ({how}; full {timed.full_ms:.2f} ms)"
    return (
        f"Considered {search.n_subsets:,} subsets of {search.n_readings} layers and pools; {search.n_probed} converged"
        f" probes{on}; {search.seconds:.0f} s"
    )


def export_tables(
    exported: Exported, analysis: Analysis, classes: Sequence[str], run: RunFolder
) -> Sequence[RenderableType]:
    """What ``export`` wrote and proved."""
    table = _table(
        "Tested on untouched images, from safe to cheap",
        *("cut", "neurons", "precision", "acc. %", "full %", "p", "within budget"),
    )
    for candidate, test in exported.tested:
        table.add_row(
            str(analysis.measured[candidate.reading].reading),
            f"{candidate.n_neurons:,}",
            candidate.precision,
            percent(test.kept.accuracy),
            percent(test.full.accuracy),
            f"{test.p_value:.4f}",
            "certified" if test.passed else "no",
        )
    built, full = exported.built, analysis.full
    shipped = Text.assemble(
        ("Shipped", "bold"),
        f": {built.reading}, {built.candidate.n_neurons:,} neurons, {built.candidate.macs / 1e6:,.1f} M MACs"
        f" ({full.macs / built.candidate.macs:.1f}x fewer), {built.candidate.n_params / 1e6:.2f} M parameters"
        f" ({full.n_params / built.candidate.n_params:.1f}x fewer), {built.form.precision},"
        f" {built.n_bytes / 1e6:.1f} MB\n",
        ("Proof", "bold"),
        f": {_proof(built)}\n",
        ("Classes", "bold"),
        f": {_fairness(exported.fairness, classes)}\n",
        ("Certificate", "bold"),
        f" ({exported.certificate.state}): {exported.sentence}\n",
        *(f"Warning: {warning}\n" for warning in exported.warnings),
        str(run.model),
    )
    return [table, shipped]


def _proof(built: Built) -> str:
    """What every step changed, in a line each at most."""
    steps = "; ".join(_step(stage, built) for stage in built.stages)
    alone = [stage.alone for stage in built.stages if stage.alone is not None]
    batches = ", ".join(map(str, alone[-1].batch_sizes))
    return f"{steps}; the same at batch {batches}, optimised or not; {built.val} on validation"


def _step(stage: Stage, built: Built) -> str:
    same = f"top-1 {stage.n_top1_agree:,} of {stage.n_images:,}"
    match stage.name:
        case "slice":
            return f"sliced = full to {stage.max_rel_diff:.0e} of the largest logit"
        case "export":
            return f"ONNX Runtime = PyTorch to {stage.max_rel_diff:.0e}, {same}"
        case "quantise":
            kept = f", {len(built.in_float)} nodes in float" if built.in_float else ""
            return f"{built.form.precision}: {same}{kept}"
        case _ if built.agreement is None:
            return f"normalisation outside: to {stage.max_rel_diff:.0e}"
    agreement = built.agreement
    test = "" if agreement.test is None else f", {agreement.test.n_correct:,} of {agreement.test.n_images:,} on test"
    return (
        f"resizing inside = timm's transform: {same}{test}, pixels to {agreement.mean_pixel_diff:.2g} of 255 on"
        f" average, {agreement.max_pixel_diff:.0f} at most"
    )


def _fairness(fairness: Fairness, classes: Sequence[str]) -> str:
    worst = fairness.worst
    return (
        f"{classes[worst.label]} changes most for the worse, {percent(worst.full.accuracy)} to"
        f" {percent(worst.kept.accuracy)} %; Gini of class accuracies {fairness.full_gini:.3f} to"
        f" {fairness.kept_gini:.3f}"
    )

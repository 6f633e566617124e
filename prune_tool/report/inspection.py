"""What ``inspect`` found, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.pipeline.inspect import KEPT_PERCENT, Inspection
from prune_tool.surgery.cost import Cost


def inspection_tables(inspection: Inspection) -> Sequence[RenderableType]:
    """A row a tap: the network up to it and what a random part of its neurons would save at most; then the barriers."""
    full = inspection.full
    head = Text.assemble(
        (f"{inspection.model} at {inspection.input_size} px", "bold"),
        f": {full.macs / 1e6:,.0f} M MACs, {full.n_params / 1e6:.2f} M parameters, classifier not counted",
    )
    table = Table(header_style="bold", caption=_caption(), caption_justify="left")
    columns = ("cut after", "width", "MACs (M)", "MACs -%", "params (k)", "params -%")
    for i, header in enumerate((*columns, f"{KEPT_PERCENT} % kept", "MACs -%", "params -%")):
        table.add_column(header, justify="left" if i == 0 else "right")
    for tap in inspection.taps:
        macs, params = _saved(tap.whole, full)
        whole = (f"{tap.whole.macs / 1e6:,.1f}", macs, f"{tap.whole.n_params / 1e3:,.1f}", params)
        table.add_row(tap.name, f"{tap.width:,}", *whole, f"{tap.n_kept:,}", *_saved(tap.kept, full))
    return [head, table, _barriers(inspection)]


def _caption() -> str:
    return (
        f"Last columns: what a cut to a random {KEPT_PERCENT} % of the tap's neurons saves. How few do for a task,\n"
        "`prune-tool analyze` measures; pooled over depths it takes fewer, and a smaller input saves more."
    )


def _saved(cost: Cost, full: Cost) -> tuple[str, str]:
    """MACs and parameters saved, in per cent of the full backbone's."""
    return f"{100 * (1 - cost.macs / full.macs):.1f}", f"{100 * (1 - cost.n_params / full.n_params):.1f}"


def _barriers(inspection: Inspection) -> Text:
    where: dict[str, list[str]] = {}
    for tap in inspection.taps:
        for operator in tap.barriers:
            where.setdefault(operator, []).append(tap.name)
    if not where:
        return Text("Barriers: none; every operator on the way has a demand rule")
    lines = [f"  {operator}: before {', '.join(_few(names))}" for operator, names in sorted(where.items())]
    return Text("\n".join(["Barriers (operators without a demand rule; what they read stays whole):", *lines]))


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= 3 else [*names[:3], f"and {len(names) - 3} more"]

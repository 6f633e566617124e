"""What ``inspect`` found, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.pipeline.inspect import KEPT_PERCENT, GroupCost, Inspection
from prune_tool.surgery.cost import Cost


def inspection_tables(inspection: Inspection) -> Sequence[RenderableType]:
    """A row a tap: the network up to it and what a random part of its neurons would save at most.

    Then the barriers, and a row a place for the hidden widths.
    """
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
    return [head, table, _barriers(inspection), *_hidden(inspection)]


def _caption() -> str:
    return (
        f"Last columns: what a cut to a random {KEPT_PERCENT} % of the tap's neurons saves. How few do for a task,\n"
        "`prune-tool analyze` measures; pooled over depths it takes fewer, and a smaller input saves more."
    )


def _saved(cost: Cost, full: Cost) -> tuple[str, str]:
    """MACs and parameters saved, in per cent of the full backbone's."""
    saved = full - cost
    return _shares(saved.macs, saved.n_params, full)


def _shares(macs: int, n_params: int, full: Cost) -> tuple[str, str]:
    return f"{100 * macs / full.macs:.1f}", f"{100 * n_params / full.n_params:.1f}"


def _hidden(inspection: Inspection) -> Sequence[RenderableType]:
    if not inspection.groups:
        return [Text("Hidden widths: none; inside the blocks there is nothing to narrow")]
    table = Table(header_style="bold", caption=_hidden_caption(), caption_justify="left")
    for i, header in enumerate(("hidden width read by", "blocks", "width", "half kept: MACs -%", "params -%")):
        table.add_column(header, justify="left" if i == 0 else "right")
    full = inspection.full
    for place, groups in _by_place(inspection.groups).items():
        widths = sorted({group.width for group in groups})
        width = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
        macs, n_params = sum(group.saved.macs for group in groups), sum(group.saved.n_params for group in groups)
        table.add_row(place, f"{len(groups)}", width, *_shares(macs, n_params, full))
    table.add_section()
    table.add_row(
        "all of them", f"{len(inspection.groups)}", "", *_shares(inspection.saved.macs, inspection.saved.n_params, full)
    )
    return [table]


def _hidden_caption() -> str:
    return (
        "Widths that one layer reads and nothing else (*: any block).\n"
        "Last columns: what keeping half of the neurons saves."
    )


def _by_place(groups: Sequence[GroupCost]) -> dict[str, list[GroupCost]]:
    """Groups in blocks of one stage under one name: ``layer1.*.conv2``."""
    found: dict[str, list[GroupCost]] = {}
    for group in groups:
        parts = group.name.split(".")
        last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
        place = ".".join("*" if i == last else part for i, part in enumerate(parts))
        found.setdefault(place, []).append(group)
    return found


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

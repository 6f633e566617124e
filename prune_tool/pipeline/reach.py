"""How far narrowing can go at all, told from the graph alone: before any image is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import fx

from prune_tool.redundancy.allocation import SharedCost, Width, least_share, unit_of
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import HiddenGroup, find_groups
from prune_tool.surgery.narrowing import narrow_graph
from prune_tool.surgery.shared_cost import macs_terms


def reach_of(captured: fx.GraphModule, round_to: int) -> float:
    """The least share of a network's multiply-accumulates that narrowing can leave; 1 without any hidden width.

    Args:
        captured: from ``capture``; not changed.
        round_to: kept widths are multiples of this where they are wide enough.
    """
    read = narrow_graph(captured, {})  # what no output reads costs nothing
    groups = find_groups(read)
    if not groups:
        return 1.0
    return least_share(even_widths(groups, round_to), shared_cost(captured, read, groups))


def shared_cost(captured: fx.GraphModule, read: fx.GraphModule, groups: Sequence[HiddenGroup]) -> SharedCost:
    """What the hidden widths of ``read``, which is ``captured`` less what no output reads, share of its whole cost."""
    return SharedCost(terms=macs_terms(read, groups), whole=cost_of(captured).macs)


def even_widths(groups: Sequence[HiddenGroup], round_to: int) -> list[Width]:
    """The sizes that each group may have, no neuron counting more than another."""
    units = [unit_of(group.width, group.n_parts, round_to) for group in groups]
    return [Width(errors=np.zeros(g.width + 1), unit=unit) for g, unit in zip(groups, units, strict=True)]

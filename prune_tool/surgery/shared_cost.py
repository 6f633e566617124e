"""What the hidden widths of a network share of its cost, as a polynomial in the share that is kept of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from torch import fx

from prune_tool.surgery.analysis import analyse
from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.cost import macs_of
from prune_tool.surgery.demand import Indices
from prune_tool.surgery.groups import HiddenGroup

Terms = tuple[tuple[float, tuple[int, ...]], ...]
"""(coefficient, places of groups): the product of the coefficient and of the kept shares of the groups."""


def macs_terms(captured: fx.GraphModule, groups: Sequence[HiddenGroup]) -> Terms:
    """Multiply-accumulates per image as a sum of terms; a layer between two groups has one that names both.

    Exact where all neurons of a group cost alike, else (a convolution over some of them) for every other one of each;
    and but for calls that two groups make cheaper and neither alone makes free, whose savings are added.
    """
    nodes = {node.name: node for node in captured.graph.nodes}
    whole = _macs(captured.graph, {})
    slopes: dict[fx.Node, list[tuple[int, float]]] = {}
    for place, group in enumerate(groups):
        cuts = {nodes[group.consumer]: _half(group)}
        left = 1 - len(cuts[nodes[group.consumer]]) / group.width
        halved = _macs(captured.graph, cuts)
        for node, macs in whole.items():
            if halved[node] < macs:
                slopes.setdefault(node, []).append((place, (macs - halved[node]) / left))
    terms: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for node, macs in whole.items():
        own = slopes.get(node, [])
        if all(np.isclose(slope, macs) for _, slope in own):
            terms[tuple(place for place, _ in own)] += macs
        else:
            terms[()] += macs
            for place, slope in own:
                terms[place,] += slope
                terms[()] -= slope
    return tuple((coefficient, places) for places, coefficient in terms.items())


def _macs(graph: fx.Graph, cuts: Mapping[fx.Node, Indices]) -> Counter[fx.Node]:
    """Multiply-accumulates of every call."""
    found: Counter[fx.Node] = Counter()
    for part in analyse(graph, dict.fromkeys(range(len(outputs_of(graph)))), cuts=cuts).parts:
        found[part.node] += macs_of(part.node, part.plan.carries, cuts)
    return found


def _half(group: HiddenGroup) -> Indices:
    """Every other neuron of every run."""
    return (np.arange(group.n_parts)[:, None] * group.run + np.arange(0, group.run, 2)).ravel()

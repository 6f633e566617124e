"""From a layer's input back to whatever makes it: the *cone* of values that exist for that layer's channels alone.

Several layers that read the same channels have one cone together.

An edge of the graph belongs to a layer's cone if what is read there depends on which channels the layer reads. The
cone is *closed* if it begins at parameters, nobody outside it reads of any value what it reads or might read, and every
value carries exactly what is read of that. Then the channels are a hidden width: with fewer of them the whole cone
shrinks, and nothing else changes. A residual, a second reader, a norm or a softmax over the axis and a tap all leave it
open. Queries and keys that share a projection with the values do not: they read other rows of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import fx

from prune_tool.surgery.analysis import Analysis, Part, channel_axis, contracted_axes, is_given, plan_of
from prune_tool.surgery.demand import Demand, Indices, Kept, same_kept
from prune_tool.surgery.site import Plan, Slot, inputs_of, shape_of

Cuts = Mapping[fx.Node, Indices]
"""Layer -> channels that it reads (see ``analyse``)."""


@dataclass(frozen=True, slots=True)
class _Edge:
    """``reader`` reads a part under ``slot``."""

    reader: Part
    slot: Slot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """The rows of one parameter that make the channels of a group.

    Attributes:
        axis: of the parameter, that of the rows.
        of_channel: by channel.
    """

    axis: int
    of_channel: Indices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cone:
    """A closed cone.

    Attributes:
        layers: the calls whose channels it makes, one for most cones.
        starts: the layers' parts.
        edges: the members, readers before what they read: each with the edges by which it is read.
        cuts: what the layers read that were cut in the analysis.
    """

    layers: Sequence[fx.Node]
    starts: Sequence[Part]
    edges: Mapping[Part, Sequence[_Edge]] = field(repr=False)
    cuts: Cuts = field(repr=False)

    def plans(self, kept: Kept) -> dict[Part, Plan]:
        """What every member carries and needs where the layers read the channels ``kept`` (``None``: all)."""
        found = {start: _start_plan(start, kept) for start in self.starts}
        for member, edges in self.edges.items():
            out = _united(member.node, [_need(found[edge.reader], member.node) for edge in edges])
            found[member] = plan_of(member.node, out, self.cuts)
        return {part: found[part] for part in self.edges}

    def makers(self, n_parts: int) -> dict[fx.Node, Rows] | None:
        """Which row of every parameter makes which channel, where each channel has one row of its own there.

        Args:
            n_parts: the channels are so many equal runs.

        Returns:
            By parameter, or by cut layer (for its weight and bias, whose rows are its output channels); ``None`` where
            some parameter has not exactly one row for each channel.
        """
        width = shape_of(self.layers[0].all_input_nodes[0])[channel_axis(self.layers[0])]
        channels = np.arange(width)
        numbers = (channels % (width // n_parts), channels // (width // n_parts))  # place in its run, run
        bits = [(number >> bit) & 1 for number in numbers for bit in range(int(number.max()).bit_length())]
        codes = sum((bit << i for i, bit in enumerate(bits)), np.zeros(width, dtype=np.int64))  # ascending
        plans = [[self.plans(channels[bit == value]) for value in (0, 1)] for bit in bits]
        found: dict[fx.Node, Rows] = {}
        for part, whole in self.plans(None).items():
            if part.node.op == "get_attr" or is_given(part.node, self.cuts):
                pairs = [[plan[part].carries for plan in pair] for pair in plans]
                rows = _rows_by_bits(whole.carries, pairs, shape_of(part.node), codes)
                if rows is None or part.node in found:
                    return None
                found[part.node] = rows
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leak:
    """Where a cone is open.

    Attributes:
        readers: who else reads there; ``None`` where it is an output that does, or not only readers are to blame.
    """

    readers: frozenset[fx.Node] | None


class ConeFinder:
    """Finds the cones of one analysis."""

    def __init__(self, analysis: Analysis, cuts: Cuts) -> None:
        self.cuts = cuts
        self.downwards = analysis.parts[::-1]
        self.parts: dict[fx.Node, list[Part]] = {}
        self.readings: dict[Part, list[tuple[_Edge | None, Demand]]] = {}
        for part, need in analysis.outputs.values():
            self.readings.setdefault(part, []).append((None, need))
        for part in self.downwards:
            self.parts.setdefault(part.node, []).append(part)
            for slot, source in part.sources.items():
                self.readings.setdefault(source, []).append((_Edge(part, slot), part.plan.needs[slot]))

    def find(self, layers: Sequence[fx.Node]) -> Cone | Leak:
        """The cone of ``layers``, which must be among the cuts and read the same channels."""
        starts = [part for layer in layers for part in self.parts.get(layer, [])]
        whole = {start: _start_plan(start, None) for start in starts}
        edges: dict[Part, list[_Edge]] = {}
        for start in starts:
            for number in contracted_axes(start.node):
                edges.setdefault(start.sources[number,], []).append(_Edge(start, (number,)))
        members: dict[Part, list[_Edge]] = {}
        for part in self.downwards:
            if part not in edges:
                continue
            wanted = _united(part.node, [_need(whole[edge.reader], part.node) for edge in edges[part]])
            whole[part] = plan_of(part.node, wanted.union(part.plan.carries), self.cuts)
            leak = self.leak(part, edges[part], wanted)
            if leak is not None or self.left_to_others(part, whole[part]):
                return leak or Leak(readers=None)
            members[part] = edges[part]
            for slot, source in part.sources.items():
                if not part.plan.needs[slot].same_as(_need(whole[part], source.node)):
                    edges.setdefault(source, []).append(_Edge(part, slot))
        if not any(part.node.op == "get_attr" or is_given(part.node, self.cuts) for part in members):
            return Leak(readers=None)
        return Cone(layers=layers, starts=starts, edges=members, cuts=self.cuts)

    def leak(self, part: Part, edges: Sequence[_Edge], wanted: Demand) -> Leak | None:
        """Whether of what ``edges`` want of ``part``, were the layers whole, it carries more than they read now."""
        if part.node.op == "placeholder":
            return Leak(readers=None)
        shape = shape_of(part.node)
        read = _united(part.node, [edge.reader.plan.needs[edge.slot] for edge in edges])
        less = [axis for axis in range(len(shape)) if not same_kept(read.axes[axis], wanted.axes[axis])]
        others = [
            None if edge is None else edge.reader.node
            for edge, need in self.readings[part]
            if edge not in edges and all(len(_common(need, wanted, axis, shape)) for axis in less)
        ]
        if others:
            nodes = frozenset(node for node in others if node is not None)
            return Leak(readers=None if None in others else nodes)
        is_exact = all(
            np.array_equal(_common(part.plan.carries, wanted, axis, shape), _indices(read, axis, shape))
            for axis in less
        )
        return None if is_exact else Leak(readers=None)

    def left_to_others(self, part: Part, whole: Plan) -> bool:
        """Whether somebody reads a value that ``part`` no longer reads at all: a piece of a concatenation, say."""
        left = set(inputs_of(whole.args).values()) - set(inputs_of(part.plan.args).values())
        return any(node in self.parts for node in left)


def _start_plan(start: Part, kept: Kept) -> Plan:
    """The plan of a layer that reads the channels ``kept``."""
    cuts = {} if kept is None else {start.node: kept}
    return plan_of(start.node, start.plan.carries, cuts)


def _need(plan: Plan, source: fx.Node) -> Demand:
    """What a plan reads of ``source``."""
    return _united(source, [plan.needs[slot] for slot, node in inputs_of(plan.args).items() if node is source])


def _united(node: fx.Node, needs: Sequence[Demand]) -> Demand:
    need = needs[0]
    for other in needs[1:]:
        need = need.union(other)
    return need.tidy(shape_of(node))


def _rows_by_bits(
    whole: Demand, by_bit: Sequence[Sequence[Demand]], shape: tuple[int, ...], codes: Indices
) -> Rows | None:
    """Rows by channel, told by each bit of the channels' codes: what is carried where it is 0, and where it is 1."""
    less = [axis for axis, kept in enumerate(by_bit[0][0].axes) if not same_kept(kept, whole.axes[axis])]
    if len(less) != 1:
        return None
    (axis,) = less
    rows = _indices(whole, axis, shape)
    code = np.zeros(len(rows), dtype=np.int64)
    for i, pair in enumerate(by_bit):
        without, with_ = (np.isin(rows, _indices(demand, axis, shape)) for demand in pair)
        if np.any(without == with_):
            return None
        code |= with_.astype(np.int64) << i
    if not np.array_equal(np.sort(code), codes):
        return None
    return Rows(axis=axis, of_channel=rows[np.argsort(code)])


def _indices(demand: Demand, axis: int, shape: tuple[int, ...]) -> Indices:
    kept = demand.axes[axis]
    return np.arange(shape[axis]) if kept is None else kept


def _common(a: Demand, b: Demand, axis: int, shape: tuple[int, ...]) -> Indices:
    return np.intersect1d(_indices(a, axis, shape), _indices(b, axis, shape), assume_unique=True)

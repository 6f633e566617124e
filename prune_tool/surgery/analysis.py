"""The backward walk: from the neurons that are kept to what every value of the graph must still carry.

Each node is visited once, after all its readers. Their needs are united, the node's rule (or the barrier) answers
with a plan, and the plan's needs become demands on its inputs. A node that nobody reads is never visited: that is
how everything after a tap vanishes.

Fission. A product set cannot say "queries of one token, keys and values of all". Where a node's readers need parts so
different that computing each part by itself is less work than their union, the node is computed in several parts
(the fused query-key-value projection of a last attention block is the case that matters). Weights whose readers
share nothing are parted too, so that each reader holds its own rows.

Cuts. A layer may be told to read only some channels of its input. It then has weights of its own, which whoever asked
will provide: those of the captured network are not read. A product of two values (attention's scores) may be told to
contract over fewer dimensions, and then reads only those of both.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx, ops

from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.demand import Demand, Indices, tidy
from prune_tool.surgery.rules import RULES
from prune_tool.surgery.site import Plan, Rule, Site, Slot, barrier, inputs_of, is_tensor, shape_of

aten = ops.aten

PRODUCTS = {aten.scaled_dot_product_attention.default, aten.matmul.default}
"""Calls whose first two arguments may be queries and keys: (..., tokens, d) each or, of the second, transposed."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What is computed of one node's value for some of its readers; for most nodes there is one, for all.

    Attributes:
        node: the node of the captured graph.
        plan: how it is sliced. Parameters and the input have plans without needs.
        sources: per slot of ``plan.args``, the part that is read there.
    """

    node: fx.Node
    plan: Plan
    sources: dict[Slot, Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What every live node of a captured graph carries and how it gets there.

    Attributes:
        parts: in an order in which they can be computed.
        outputs: per output that is kept, in ascending order: where it is read and what of it.
        barriers: operators without a rule from which less than everything was asked, by name.
    """

    parts: Sequence[Part]
    outputs: Mapping[int, tuple[Part, Demand]]
    barriers: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Reader:
    """One reading of a value: where the answer is to be noted, under which slot, and how much is read."""

    sources: dict[Slot, Part]
    slot: Slot
    need: Demand


def analyse(
    graph: fx.Graph,
    kept: Mapping[int, Indices | None],
    *,
    round_to: int = 1,
    cuts: Mapping[fx.Node, Indices] | None = None,
) -> Analysis:
    """Walk ``graph`` backwards from the kept neurons of its outputs.

    Args:
        graph: canonical (see ``capture``). Not changed.
        kept: output number -> ascending indices kept on its last axis (``None``: all). Absent outputs are dropped.
        round_to: widths that weights produce are rounded up to a multiple of this where that reads unused rows;
            the surplus never reaches the output.
        cuts: convolution or linear layer -> ascending channels of its input that it reads from now on. Weight and
            bias (slots 1 and 2) of such a layer are no sources. Or one of ``PRODUCTS`` -> ascending dimensions that it
            contracts.

    Raises:
        ValueError: kept indices are not ascending, out of range or none at all.
    """
    walk = _Walk(round_to, cuts or {})
    values = outputs_of(graph)
    outputs = {i: _Reader({}, (), _of_last_axis(values[i], kept[i])) for i in sorted(kept)}
    for i, reader in outputs.items():
        walk.readers.setdefault(values[i], []).append(reader)
    for node in reversed(graph.nodes):
        walk.visit(node)
    return Analysis(
        parts=walk.parts[::-1],
        outputs={i: (reader.sources[()], reader.need) for i, reader in outputs.items()},
        barriers=frozenset(walk.barriers),
    )


def _of_last_axis(value: fx.Node, kept: Indices | None) -> Demand:
    width = shape_of(value)[-1]
    if kept is not None and not (len(kept) and kept[0] >= 0 and kept[-1] < width and np.all(np.diff(kept) > 0)):
        raise ValueError(f"kept neurons must be ascending indices below {width}, at least one; got {kept}")
    return Demand.everything(len(shape_of(value))).replace(-1, tidy(kept, width))


class _Walk:
    def __init__(self, round_to: int, cuts: Mapping[fx.Node, Indices]) -> None:
        self.round_to = round_to
        self.cuts = cuts
        self.readers: dict[fx.Node, list[_Reader]] = {}
        self.parts: list[Part] = []
        self.barriers: set[str] = set()

    def visit(self, node: fx.Node) -> None:
        readers = self.readers.pop(node, [])
        if not readers:
            return
        for group in self.parted(node, readers):
            out = _united(node, group)
            part = Part(node, self.plan(node, out), {})
            self.parts.append(part)
            for reader in group:
                reader.sources[reader.slot] = part
            for slot, source in inputs_of(part.plan.args).items():
                self.readers.setdefault(source, []).append(_Reader(part.sources, slot, part.plan.needs[slot]))
            if part.plan.is_barrier and not out.is_everything and _reads_tensors(node):
                self.barriers.add(_name(node))

    def plan(self, node: fx.Node, out: Demand) -> Plan:
        return plan_of(node, out, self.cuts, round_to=self.round_to)

    def parted(self, node: fx.Node, readers: list[_Reader]) -> list[list[_Reader]]:
        """Readers grouped by need, where computing each group's part by itself is less work than their union."""
        groups = _by_need(readers)
        if len(groups) == 1 or node.op == "placeholder":
            return [readers]
        shape = shape_of(node)
        together = self.plan(node, _united(node, readers)).carries.volume(shape)
        apart = sum(self.plan(node, group[0].need).carries.volume(shape) for group in groups)
        is_less = apart <= together if node.op == "get_attr" else apart < together
        return groups if is_less else [readers]


def plan_of(node: fx.Node, out: Demand, cuts: Mapping[fx.Node, Indices], *, round_to: int = 1) -> Plan:
    """What ``node`` needs of its inputs where ``out`` is demanded of it; ``cuts``, ``round_to``: see ``analyse``."""
    if node.op != "call_function":  # weights are cut to what is read of them, images come as they are
        whole = Demand.everything(len(shape_of(node)))
        return Plan(carries=whole if node.op == "placeholder" else out, needs={}, args=(), target=None)
    rule: Rule = RULES.get(node.target, barrier) if is_tensor(node) else barrier
    plan = rule(Site(node, out, round_to))
    return _reading_only(plan, node, cuts[node]) if node in cuts else plan


def contracted_axes(node: fx.Node) -> dict[int, int]:
    """By slot of a layer's or a product's input, the axis that is summed over: of queries and of keys, their last."""
    if node.target in PRODUCTS:
        rank = len(shape_of(node))
        return {0: rank - 1, 1: rank - 2 if node.target is aten.matmul.default else rank - 1}
    return {0: len(shape_of(node)) - 1 if node.target is aten.linear.default else 1}


def channel_axis(layer: fx.Node) -> int:
    """The axis of its input that a linear layer (the last) or a convolution (the second) contracts."""
    return contracted_axes(layer)[0]


def is_given(node: fx.Node, cuts: Mapping[fx.Node, Indices]) -> bool:
    """Whether ``node`` is a layer whose weight and bias will be given because it is cut."""
    return node in cuts and node.target not in PRODUCTS


def _reading_only(plan: Plan, node: fx.Node, channels: Indices) -> Plan:
    needs = dict(plan.needs) if node.target in PRODUCTS else {}
    for slot, axis in contracted_axes(node).items():
        need, source = plan.needs[slot,], plan.args[slot]
        before = need.axes[axis]
        read = channels if before is None else np.intersect1d(channels, before)
        needs[slot,] = need.replace(axis, tidy(read, shape_of(source)[axis]))
    args = plan.args if node.target in PRODUCTS else (plan.args[0], None, None, *plan.args[3:])
    return replace(plan, needs=needs, args=args)


def _by_need(readers: list[_Reader]) -> list[list[_Reader]]:
    groups: list[list[_Reader]] = []
    for reader in readers:
        same = next((group for group in groups if group[0].need.same_as(reader.need)), None)
        if same is None:
            groups.append([reader])
        else:
            same.append(reader)
    return groups


def _united(node: fx.Node, readers: list[_Reader]) -> Demand:
    need = readers[0].need
    for reader in readers[1:]:
        need = need.union(reader.need)
    return need.tidy(shape_of(node))


def _reads_tensors(node: fx.Node) -> bool:
    """Whether a barrier here costs anything: what is made of numbers alone (a range, zeros) does not."""
    return any(not isinstance(source.meta.get("val"), int | float | torch.SymInt) for source in node.all_input_nodes)


def _name(node: fx.Node) -> str:
    """The operator, seen through ``getitem`` where it returns several tensors."""
    source = node.args[0]
    return str(source.target if node.target is operator.getitem and isinstance(source, fx.Node) else node.target)

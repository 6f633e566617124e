"""Hidden widths: channels that one layer reads and nothing else, so that it may read fewer of them.

A bottleneck, an expansion, the hidden layer of an MLP, the values of an attention: wherever the cone of a layer's
channels is closed (see ``cones``), they are a hidden group. Any of them may go, and with them everything that only
made them. No table of architectures: every layer is tried.

How it is tried. Each layer is made to read a few channels, all layers in one analysis. Which few tells structure: a
grouped convolution keeps an equal number in each of its runs, and attention keeps the same places in every head, so
what fails as free choice is tried in runs, then in aligned runs. In each run one channel is kept, then all but
that one; where runs need not be aligned, their places have no period that heads or groups could share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import fx, ops

from prune_tool.surgery.analysis import analyse
from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.cones import Cone, ConeFinder, Cuts
from prune_tool.surgery.cost import macs_of, params_of
from prune_tool.surgery.demand import Demand, Indices
from prune_tool.surgery.layers import Layer, held_by, layers_of
from prune_tool.surgery.site import shape_of

aten = ops.aten

_KNOWN: WeakKeyDictionary[fx.GraphModule, tuple[HiddenGroup, ...]] = WeakKeyDictionary()
"""Groups of the captured networks that live: they take a second to find, and a captured network does not change."""
_PRODUCTS = {aten.scaled_dot_product_attention.default, aten.matmul.default, aten.bmm.default}


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenGroup:
    """One hidden width of a captured network.

    Attributes:
        name: path of the consumer's module (``layer1.0.conv2``, ``blocks.3.mlp.fc2``, ``blocks.3.attn.proj``); unique.
        kind: ``value`` where an attention product makes the neurons; else ``channels`` where the consumer is a
            convolution, ``features`` where it is linear.
        consumer: name of the consumer's call in the captured graph. Its first argument has the group on axis 1
            (convolution) or on the last axis (linear layer).
        width: neurons on that axis.
        n_parts: the axis is so many equal runs, and the same number must be kept in each (heads of attention, groups
            of grouped convolutions); which ones is free per run. 1 where any may be kept.
        aligned: whether the network computes the same places of every run. Narrowing then first sorts each run's
            neurons, kept ones first.
        macs_per_neuron: multiply-accumulates per image that go with one neuron, on average over the group, where every
            other group is half as wide as it was.
        params_per_neuron: trained numbers that go with it, there.
    """

    name: str
    kind: str
    consumer: str
    width: int
    n_parts: int
    aligned: bool
    macs_per_neuron: float
    params_per_neuron: float

    @property
    def run(self) -> int:
        """Neurons in each of the runs."""
        return self.width // self.n_parts


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which choices of a layer's channels are allowed: as many in each run, in aligned runs the same places."""

    n_parts: int
    aligned: bool = False

    def at(self, width: int, places: Iterable[int]) -> Indices:
        """The channels at ``places`` of every run, moved on within runs that need not be aligned.

        They are moved by the number of ones in the run's binary number (the Thue-Morse sequence, for runs of two).
        """
        run = width // self.n_parts
        moved = np.array([0 if self.aligned else part.bit_count() for part in range(self.n_parts)])
        within = (np.fromiter(places, np.int64)[None, :] + moved[:, None]) % run
        return np.sort((np.arange(self.n_parts)[:, None] * run + within).ravel())


def find_groups(captured: fx.GraphModule) -> tuple[HiddenGroup, ...]:
    """Every hidden group of a captured network, in graph order. Each is hidden whatever becomes of the others."""
    if captured not in _KNOWN:
        _KNOWN[captured] = _described(captured, _found(captured.graph, layers_of(captured)))
    return _KNOWN[captured]


def _found(graph: fx.Graph, layers: Sequence[Layer]) -> dict[Layer, _Layout]:
    options = {layer: _options(layer, graph) for layer in layers}
    found: dict[Layer, _Layout] = {}
    for i in range(max(map(len, options.values()), default=0)):
        tried = {layer: options[layer][i] for layer in layers if layer not in found and i < len(options[layer])}
        closed = _closed(graph, found | tried)
        found |= {layer: it for layer, it in tried.items() if layer in closed and _can_be_sorted(closed[layer], it)}
    while (closed := _closed(graph, found)).keys() != found.keys():
        found = {layer: found[layer] for layer in closed}
    return {layer: found[layer] for layer in layers if layer in found}


def _options(layer: Layer, graph: fx.Graph) -> Sequence[_Layout]:
    """Layouts worth trying, the freest first."""
    groups = {math.lcm(layer.groups, n) for n in (1, *_group_counts(graph))}
    free = [_Layout(n) for n in sorted(groups)]
    aligned = [_Layout(n, aligned=True) for n in sorted(_head_counts(graph)) if layer.groups == 1]
    return [
        option for option in (*free, *aligned) if layer.width % option.n_parts == 0 and option.n_parts < layer.width
    ]


def _group_counts(graph: fx.Graph) -> set[int]:
    """Groups of convolutions that have several channels in each."""
    convolutions = [node for node in graph.nodes if str(node.target).startswith("aten.conv")]
    return {node.args[6] for node in convolutions if node.args[6] < shape_of(node)[1]}


def _head_counts(graph: fx.Graph) -> set[int]:
    """Sizes of the axis before the matrices of batched products."""
    return {shape_of(node)[-3] for node in graph.nodes if node.target in _PRODUCTS and len(shape_of(node)) > 3} - {1}


def _closed(graph: fx.Graph, tried: Mapping[Layer, _Layout]) -> dict[Layer, Cone]:
    """The layers whose cones are closed whether all channels but one of every run are read or that one alone.

    In this order: most leaks show already in the first, and there reading less disturbs no other layer's cone.
    """
    for places in (_all_but_first, _first):
        cones = _cones(graph, {layer: layout.at(layer.width, places(layer, layout)) for layer, layout in tried.items()})
        tried = {layer: tried[layer] for layer in cones}
    return cones


def _first(_layer: Layer, _layout: _Layout) -> range:
    return range(1)


def _all_but_first(layer: Layer, layout: _Layout) -> range:
    return range(1, layer.width // layout.n_parts)


def _every_second(layer: Layer, layout: _Layout) -> range:
    return range(1, layer.width // layout.n_parts, 2)


def _cones(graph: fx.Graph, read: Mapping[Layer, Indices]) -> dict[Layer, Cone]:
    cuts = {layer.node: kept for layer, kept in read.items()}
    finder = ConeFinder(analyse(graph, dict.fromkeys(range(len(outputs_of(graph)))), cuts=cuts), cuts)
    cones = {layer: finder.find(layer.node) for layer in read}
    return {layer: cone for layer, cone in cones.items() if cone is not None}


def _can_be_sorted(cone: Cone, layout: _Layout) -> bool:
    """Whether the neurons of every run can change places, which only aligned runs need."""
    return not layout.aligned or cone.makers(layout.n_parts) is not None


def _described(captured: fx.GraphModule, found: Mapping[Layer, _Layout]) -> tuple[HiddenGroup, ...]:
    halves = {layer: layout.at(layer.width, _every_second(layer, layout)) for layer, layout in found.items()}
    cones = _cones(captured.graph, halves)
    trained = {name for name, _ in captured.named_parameters()}
    return tuple(_group(layer, layout, cones[layer], trained) for layer, layout in found.items())


def _group(layer: Layer, layout: _Layout, cone: Cone, trained: set[str]) -> HiddenGroup:
    def params(node: fx.Node, carries: Demand, cuts: Cuts) -> int:
        is_held = node in cone.cuts or (node.op == "get_attr" and node.target in trained)
        return params_of(node, carries, cuts) if is_held else 0

    is_linear = layer.node.target is aten.linear.default
    is_product = any(part.node.target in _PRODUCTS for part in cone.edges)
    return HiddenGroup(
        name=layer.name,
        kind="value" if is_product else "features" if is_linear else "channels",
        consumer=layer.node.name,
        width=layer.width,
        n_parts=layout.n_parts,
        aligned=layout.aligned,
        macs_per_neuron=_slope(cone, layer.width, macs_of),
        params_per_neuron=_slope(cone, layer.width, params),
    )


def _slope(cone: Cone, width: int, amount: Callable[[fx.Node, Demand, Cuts], int]) -> float:
    """How much of an amount goes with one neuron: of the layer itself, and of all that makes its channels."""
    here = {node: kept for node, kept in cone.cuts.items() if node is not cone.layer}
    n_gone = width - len(cone.cuts[cone.layer])
    gone = sum(
        amount(part.node, part.plan.carries, here) - amount(part.node, part.plan.carries, cone.cuts)
        for part in cone.starts
    )
    cut = cone.plans(cone.cuts[cone.layer])
    gone += sum(
        amount(part.node, whole.carries, cone.cuts) - amount(part.node, cut[part].carries, cone.cuts)
        for part, whole in cone.plans(None).items()
    )
    return gone / n_gone


def consumer_of(captured: fx.GraphModule, group: HiddenGroup) -> fx.Node:
    """The call that reads the group."""
    node: fx.Node = next(node for node in captured.graph.nodes if node.name == group.consumer)
    return node


def consumer_weight(captured: fx.GraphModule, group: HiddenGroup) -> torch.Tensor:
    """The consumer's weight as float32: (out, width, *kernel); of a grouped convolution (out, width / groups, *kernel).

    Where the network computes it from parameters (weight standardisation), this is the result.
    """
    return _held(captured, group, 1).float()


def consumer_bias(captured: fx.GraphModule, group: HiddenGroup) -> torch.Tensor | None:
    """The consumer's bias (out,), float32; ``None`` where it has none."""
    node = consumer_of(captured, group)
    return None if node.args[2] is None else _held(captured, group, 2).float()


def _held(captured: fx.GraphModule, group: HiddenGroup, slot: int) -> torch.Tensor:
    held = consumer_of(captured, group).args[slot]
    if not isinstance(held, fx.Node):
        raise TypeError(f"{group.name} holds nothing there")
    return held_by(captured, held)

"""Hidden widths: channels that one layer reads and nothing else, so that it may read fewer of them.

A bottleneck, an expansion, the hidden layer of an MLP, the values of an attention, the dimensions of its queries and
keys: wherever the cone of a layer's channels is closed (see ``cones``), they are a hidden group. Any of them may go,
and with them everything that only made them. No table of architectures: every layer is tried (see ``search``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import Tensor, fx, ops

from prune_tool.surgery.analysis import PRODUCTS, is_given
from prune_tool.surgery.cones import Cone, Cuts
from prune_tool.surgery.cost import macs_of, params_of
from prune_tool.surgery.demand import Demand
from prune_tool.surgery.layers import Layer, held_by, layers_of
from prune_tool.surgery.scores import scores_of
from prune_tool.surgery.search import BATCHED_PRODUCTS, Layout, Readers, closed_cones, halves, hidden_widths

_KNOWN: WeakKeyDictionary[fx.GraphModule, dict[bool, tuple[HiddenGroup, ...]]] = WeakKeyDictionary()
"""Groups of the captured networks that live: they take a second to find, and a captured network does not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenGroup:
    """One hidden width of a captured network.

    Attributes:
        name: path of the consumer's module (``layer1.0.conv2``, ``blocks.3.mlp.fc2``, ``blocks.3.attn.proj``); unique.
        kind: ``scores`` where the consumer is a product of queries and keys, ``value`` where an attention product makes
            the neurons; else ``channels`` where the consumer is a convolution, ``features`` where it is linear.
        consumer: name of the consumer's call in the captured graph. Its first argument has the group on axis 1
            (convolution) or on the last axis (linear layer, queries).
        others: names of further calls that read the same neurons; their weights have to be given, too. None but
            where groups were asked for that are coupled: squeeze-and-excite reads what the projection reads.
        width: neurons on that axis; of ``scores`` the dimensions of one head, which go alike in all.
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
    others: tuple[str, ...] = ()
    width: int
    n_parts: int
    aligned: bool = False
    macs_per_neuron: float
    params_per_neuron: float

    @property
    def run(self) -> int:
        """Neurons in each of the runs."""
        return self.width // self.n_parts


def find_groups(captured: fx.GraphModule, *, coupled: bool = False) -> tuple[HiddenGroup, ...]:
    """Every hidden group of a captured network, in graph order. Each is hidden whatever becomes of the others.

    Args:
        captured: from ``capture``.
        coupled: whether to add groups that several layers read (see ``HiddenGroup.others``).
    """
    known = _KNOWN.setdefault(captured, {})
    if coupled not in known:
        known[coupled] = _described(captured, hidden_widths(captured.graph, _tried(captured), coupled=coupled))
    return known[coupled]


def _tried(captured: fx.GraphModule) -> list[Layer]:
    """Layers and products of queries and keys, in graph order."""
    place = {node: i for i, node in enumerate(captured.graph.nodes)}
    return sorted((*layers_of(captured), *scores_of(captured)), key=lambda layer: place[layer.node])


def _described(captured: fx.GraphModule, found: Mapping[Readers, Layout]) -> tuple[HiddenGroup, ...]:
    cones = closed_cones(captured.graph, halves(found, found))
    trained = {name for name, _ in captured.named_parameters()}
    return tuple(_group(readers, layout, cones[readers], trained) for readers, layout in found.items())


def _group(readers: Readers, layout: Layout, cone: Cone, trained: set[str]) -> HiddenGroup:
    def params(node: fx.Node, carries: Demand, cuts: Cuts) -> int:
        is_held = is_given(node, cone.cuts) or (node.op == "get_attr" and node.target in trained)
        return params_of(node, carries, cuts) if is_held else 0

    *others, main = readers
    return HiddenGroup(
        name=main.name,
        kind=_kind(main, cone),
        consumer=main.node.name,
        others=tuple(layer.node.name for layer in others),
        width=main.width,
        n_parts=layout.n_parts,
        aligned=layout.aligned,
        macs_per_neuron=_slope(cone, main.width, macs_of),
        params_per_neuron=_slope(cone, main.width, params),
    )


def _kind(main: Layer, cone: Cone) -> str:
    if main.node.target in PRODUCTS:
        return "scores"
    if any(part.node.target in BATCHED_PRODUCTS for part in cone.edges):
        return "value"
    return "features" if main.node.target is ops.aten.linear.default else "channels"


def _slope(cone: Cone, width: int, amount: Callable[[fx.Node, Demand, Cuts], int]) -> float:
    """How much of an amount goes with one neuron: of the layers themselves, and of all that makes their channels."""
    here = {node: kept for node, kept in cone.cuts.items() if node not in cone.layers}
    kept = cone.cuts[cone.layers[0]]
    gone = sum(
        amount(part.node, part.plan.carries, here) - amount(part.node, part.plan.carries, cone.cuts)
        for part in cone.starts
    )
    cut = cone.plans(kept)
    gone += sum(
        amount(part.node, whole.carries, cone.cuts) - amount(part.node, cut[part].carries, cone.cuts)
        for part, whole in cone.plans(None).items()
    )
    return gone / (width - len(kept))


def consumer_weight(captured: fx.GraphModule, group: HiddenGroup, consumer: str | None = None) -> Tensor:
    """The weight of the consumer, or of one of ``group.others``, as float32.

    Returns:
        (out, width, *kernel); of a grouped convolution (out, width / groups, *kernel). Where the network computes it
        from parameters (weight standardisation), this is the result.
    """
    return held_by(captured, node_of(captured, consumer or group.consumer).all_input_nodes[1]).float()


def consumer_bias(captured: fx.GraphModule, group: HiddenGroup, consumer: str | None = None) -> Tensor | None:
    """The bias (out,) of the consumer, or of one of ``group.others``, as float32; ``None`` where it has none."""
    held = node_of(captured, consumer or group.consumer).args[2]
    return held_by(captured, held).float() if isinstance(held, fx.Node) else None


def node_of(captured: fx.GraphModule, name: str) -> fx.Node:
    """The call of that name."""
    node: fx.Node = next(node for node in captured.graph.nodes if node.name == name)
    return node

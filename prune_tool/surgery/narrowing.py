"""The rewrite inside the blocks: hidden groups with fewer neurons, and consumers with the weights that fit them.

Promises of ``narrow_graph``:

1. the result returns what the captured network would return if every consumer read only the kept neurons, with the
   weight and the bias given for it, and if every product of queries and keys read those given for it, to float
   rounding;
2. what only made the other neurons does not exist;
3. it is a captured network itself, with the same outputs, and the same names of parameters and consumers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, fx

from prune_tool.surgery.analysis import analyse
from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.cones import ConeFinder
from prune_tool.surgery.cost import Cost, cost_of
from prune_tool.surgery.demand import Indices, Kept
from prune_tool.surgery.groups import HiddenGroup, find_groups, node_of
from prune_tool.surgery.layers import Layer, layers_of
from prune_tool.surgery.narrow_rewriter import Given, NarrowRewriter
from prune_tool.surgery.scores import scores_of
from prune_tool.surgery.site import shape_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Narrowed:
    """What becomes of one group.

    Attributes:
        kept: its kept neurons, ascending; the same number in each of the group's runs.
        weight: of the consumer: (out, k, *kernel), or (out, k / groups, *kernel) of a grouped convolution; columns in
            the order of ``kept``.
        bias: of the consumer: (out,).
        others: weight and bias of every further consumer, by name of its call; none for most groups.
    """

    kept: Indices
    weight: Tensor
    bias: Tensor
    others: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def n_kept(self) -> int:
        """Neurons that are left."""
        return len(self.kept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turned:
    """What becomes of the queries and keys of one product: linear maps of each head's own, to fewer dimensions.

    Attributes:
        query: (heads, n, d) float32; head ``h`` has the queries ``query[h] @ q``.
        key: (heads, n, d) float32, likewise.
    """

    query: Tensor
    key: Tensor

    @property
    def n_kept(self) -> int:
        """Dimensions left of each head."""
        return self.query.shape[1]


Cut = Narrowed | Turned
"""What becomes of one group: ``Turned`` where its kind is ``scores``."""


def narrow_graph(captured: fx.GraphModule, cuts: Mapping[str, Cut]) -> fx.GraphModule:
    """Narrow hidden groups of a captured network.

    Args:
        captured: from ``capture``, or from here; not changed.
        cuts: by name of the group. Without any, the network is only freed of what no output reads (a transformer
            whose last block is read at its class token computes no other query there).

    Returns:
        A captured network: images -> the same outputs.

    Raises:
        ValueError: there is no such group, or the kept neurons, the weight or the bias do not fit it.
    """
    known = _groups(captured, cuts)
    for name, cut in cuts.items():
        _require_fit(known[name], cut)
    read = {node: channels for name, cut in cuts.items() for node, channels in _read(captured, known[name], cut)}
    analysis = analyse(captured.graph, _all_outputs(captured), cuts=read)
    rewriter = NarrowRewriter(captured, analysis, _given(captured, cuts, known))
    finder = ConeFinder(analysis, read)
    scores = {each.name: each for each in scores_of(captured)}
    for name, cut in cuts.items():
        group = known[name]
        if isinstance(cut, Turned):
            for side, matrix in ((scores[name].query, cut.query), (scores[name].key, cut.key)):
                rewriter.turn(side, matrix, _computed(group, cut.n_kept))
        elif group.aligned and cut.n_kept < group.width:
            rewriter.sort(finder.find([node for node, _ in _read(captured, group, cut)]), group, cut.kept)
    outputs = tuple(rewriter.run())
    rewriter.note_values()
    return rewriter.module(outputs)


def _read(captured: fx.GraphModule, group: HiddenGroup, cut: Cut) -> list[tuple[fx.Node, Indices]]:
    """Who reads a group, in graph order, and which of its channels from now on."""
    channels = _computed(group, cut.n_kept)
    if isinstance(cut, Narrowed) and not group.aligned:
        channels = cut.kept.astype(np.int64)
    return [(node_of(captured, reader), channels) for reader in (*group.others, group.consumer)]


def _given(captured: fx.GraphModule, cuts: Mapping[str, Cut], known: Mapping[str, HiddenGroup]) -> dict[fx.Node, Given]:
    """What every layer that is cut will compute with."""
    layers = {layer.node.name: layer for layer in layers_of(captured)}
    given: dict[fx.Node, Given] = {}
    for name, cut in cuts.items():
        if isinstance(cut, Narrowed):
            for consumer, (weight, bias) in {**cut.others, known[name].consumer: (cut.weight, cut.bias)}.items():
                layer = layers[consumer]
                _require_weights(layer, cut.n_kept, weight, bias)
                given[layer.node] = Given(path=layer.path, weight=weight, bias=bias)
    return given


def cost_of_narrowed(captured: fx.GraphModule, widths: Mapping[str, int]) -> Cost:
    """Cost of ``narrow_graph`` with so many neurons kept of each named group, read off the plans.

    Args:
        captured: as in ``narrow_graph``.
        widths: by name of the group: neurons kept, a multiple of its ``n_parts``. The others stay whole.
    """
    known = _groups(captured, widths)
    nodes = {node.name: node for node in captured.graph.nodes}
    read = {}
    for name, width in widths.items():
        group = known[name]
        if not 0 < width <= group.width or width % group.n_parts:
            raise ValueError(f"{name} has {group.width} neurons in {group.n_parts} runs; {width} cannot be kept")
        for consumer in (*group.others, group.consumer):
            read[nodes[consumer]] = _computed(group, width)
    return cost_of(captured, _all_outputs(captured), cuts=read)


def _groups(captured: fx.GraphModule, names: Collection[str]) -> dict[str, HiddenGroup]:
    """The groups by name, the coupled ones among them where one of ``names`` is such."""
    known = {group.name: group for group in find_groups(captured)}
    if not known.keys() >= set(names):
        known = {group.name: group for group in find_groups(captured, coupled=True)}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no hidden group {name}; there are {', '.join(known) or 'none'}")
    return known


def _all_outputs(captured: fx.GraphModule) -> dict[int, Kept]:
    return dict.fromkeys(range(len(outputs_of(captured.graph))))


def _computed(group: HiddenGroup, n_kept: int) -> Indices:
    """The channels that are computed where a group is sorted: the first ones of each run, of scores the last ones."""
    if group.kind == "scores":
        return np.arange(group.width - n_kept, group.width)
    return (np.arange(group.n_parts)[:, None] * group.run + np.arange(n_kept // group.n_parts)).ravel()


def _require_fit(group: HiddenGroup, cut: Cut) -> None:
    if isinstance(cut, Turned) != (group.kind == "scores"):
        raise ValueError(f"{group.name} is of the kind {group.kind}, which a {type(cut).__name__} does not fit")
    if isinstance(cut, Turned):
        _, n, d = cut.query.shape
        if cut.key.shape != cut.query.shape or d != group.width or not 0 < n <= d:
            found = f"{tuple(cut.query.shape)} and {tuple(cut.key.shape)}"
            raise ValueError(f"{group.name} takes two maps (heads, n, {group.width}), n at most that; got {found}")
        return
    kept = cut.kept
    if not (len(kept) and kept[0] >= 0 and kept[-1] < group.width and np.all(np.diff(kept) > 0)):
        raise ValueError(f"{group.name} keeps ascending indices below {group.width}, at least one; got {kept}")
    counts = np.bincount(kept // group.run, minlength=group.n_parts)
    if np.any(counts != counts[0]):
        raise ValueError(f"{group.name} keeps as many neurons in each of {group.n_parts} runs; got {counts.tolist()}")
    if cut.others.keys() != set(group.others):
        wanted = ", ".join(group.others) or "none"
        raise ValueError(f"{group.name} is read besides by {wanted}; got weights of {', '.join(cut.others) or 'none'}")


def _require_weights(layer: Layer, n_kept: int, weight: Tensor, bias: Tensor) -> None:
    n_rows, _, *kernel = shape_of(layer.node.all_input_nodes[1])
    wanted = (n_rows, n_kept // layer.groups, *kernel)
    if tuple(weight.shape) != wanted or tuple(bias.shape) != (n_rows,):
        found = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        raise ValueError(f"{layer.name} takes a weight {wanted} and a bias {(n_rows,)}; got {found}")

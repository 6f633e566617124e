"""The rewrite inside the blocks: hidden groups with fewer neurons, and consumers with the weights that fit them.

Promises of ``narrow_graph``:

1. the result returns what the captured network would return if every consumer read only the kept neurons, with the
   weight and the bias given for it, to float rounding;
2. what only made the other neurons does not exist;
3. it is a captured network itself, with the same outputs, and the same names of parameters and consumers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from prune_tool.surgery.analysis import Analysis, Part, analyse, channel_axis
from prune_tool.surgery.capture import image_input, outputs_of
from prune_tool.surgery.cones import Cone, ConeFinder, Leak
from prune_tool.surgery.cost import Cost, cost_of
from prune_tool.surgery.demand import Indices, Kept
from prune_tool.surgery.groups import HiddenGroup, find_groups
from prune_tool.surgery.layers import Layer, layers_of
from prune_tool.surgery.site import shape_of
from prune_tool.surgery.slicing import Rewriter


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


def narrow_graph(captured: fx.GraphModule, cuts: Mapping[str, Narrowed]) -> fx.GraphModule:
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
    layers = {layer.node.name: layer for layer in layers_of(captured)}
    read: dict[fx.Node, Indices] = {}
    given: dict[fx.Node, tuple[str, Tensor, Tensor]] = {}
    for name, cut in cuts.items():
        group = known[name]
        _require_fit(group, cut)
        for consumer, (weight, bias) in {**cut.others, group.consumer: (cut.weight, cut.bias)}.items():
            layer = layers[consumer]
            _require_weights(layer, len(cut.kept), weight, bias)
            read[layer.node] = _read(group, cut.kept)
            given[layer.node] = (layer.path, weight, bias)
    analysis = analyse(captured.graph, _all_outputs(captured), cuts=read)
    narrower = _Narrower(captured, analysis, given)
    finder = ConeFinder(analysis, read)
    for name, cut in cuts.items():
        group = known[name]
        if group.aligned and len(cut.kept) < group.width:
            narrower.sort(finder.find([layers[node].node for node in (*group.others, group.consumer)]), group, cut.kept)
    outputs = tuple(narrower.run())
    narrower.note_values()
    return narrower.module(outputs)


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
            read[nodes[consumer]] = _first_of_each(group, width // group.n_parts)
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


def _read(group: HiddenGroup, kept: Indices) -> Indices:
    """The channels that are computed: those kept, or where each run is sorted, the first ones of each."""
    return _first_of_each(group, len(kept) // group.n_parts) if group.aligned else kept.astype(np.int64)


def _first_of_each(group: HiddenGroup, n: int) -> Indices:
    run = group.run
    return (np.arange(group.n_parts)[:, None] * run + np.arange(n)).ravel()


def _require_fit(group: HiddenGroup, cut: Narrowed) -> None:
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


class _Narrower(Rewriter):
    """Gives cut layers their new weights, and sorts the rows of what makes their channels.

    Attributes:
        given: cut layer -> path of its module, and the weight and the bias it gets.
        orders: parameter or cut layer -> axis, and which row comes to which place of it.
    """

    def __init__(
        self, captured: fx.GraphModule, analysis: Analysis, given: Mapping[fx.Node, tuple[str, Tensor, Tensor]]
    ) -> None:
        super().__init__(captured, analysis)
        self.given = given
        self.orders: dict[fx.Node, tuple[int, Indices]] = {}
        self.names: Counter[str] = Counter()

    def sort(self, cone: Cone | Leak, group: HiddenGroup, kept: Indices) -> None:
        """Have the kept neurons of every run made by what now makes its first ones."""
        made = cone.makers(group.n_parts) if isinstance(cone, Cone) else None
        if made is None:
            raise RuntimeError(f"{group.name} was found aligned, but is not")
        channels = np.arange(group.width).reshape(group.n_parts, -1)
        order = np.stack([np.concatenate([run[np.isin(run, kept)], run[~np.isin(run, kept)]]) for run in channels])
        for node, rows in made.items():
            size = shape_of(node)[rows.axis]
            _, moved = self.orders.setdefault(node, (rows.axis, np.arange(size)))
            moved[rows.of_channel[channels.ravel()]] = rows.of_channel[order.ravel()]

    def arranged(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """See ``Rewriter``."""
        if node not in self.orders:
            return tensor
        axis, order = self.orders[node]
        return tensor.index_select(axis, torch.from_numpy(order).to(tensor.device))

    def arguments(self, part: Part) -> list[Any]:
        """See ``Rewriter``."""
        args = super().arguments(part)
        if part.node in self.given:
            path, weight, bias = self.given[part.node]
            args[1] = self.held(part, f"{path}.weight", weight)
            args[2] = self.held(part, f"{path}.bias", bias)
        return args

    def held(self, part: Part, path: str, given: Tensor) -> fx.Node:
        """The rows of a given weight or bias that ``part`` computes, as a parameter like the one before."""
        like = part.node.all_input_nodes[1].meta["val"]
        rows = part.plan.carries.axes[channel_axis(part.node)]
        _, order = self.orders.get(part.node, (0, np.arange(len(given))))
        chosen = torch.from_numpy(order if rows is None else order[rows])
        tensor = given.detach().to(device=like.device, dtype=like.dtype).index_select(0, chosen.to(like.device))
        return self.store(path, nn.Parameter(tensor))

    def note_values(self) -> None:
        """Write down what every value looks like, as capture does: like the one before, but for the sizes."""
        mode: Any = image_input(self.captured.graph).meta["val"].fake_mode
        parts = {node: part for part, node in self.new.items()}
        gathered = {node: (source, axis, len(index) // 8) for (source, axis, index), node in self.gathers.items()}
        for node in self.graph.nodes:
            if node.op == "get_attr":
                node.meta["val"] = mode.from_tensor(self.tensors[str(node.target)], static_shapes=True)
            elif node in gathered:
                source, axis, n = gathered[node]
                node.meta["val"] = _resized(source.meta["val"], {axis: n})
            else:
                axes = enumerate(parts[node].plan.carries.axes)
                sizes = {axis: len(kept) for axis, kept in axes if kept is not None}
                node.meta["val"] = _resized(parts[node].node.meta["val"], sizes)

    def name(self, part: Part) -> str:
        """See ``Rewriter``."""
        self.names[part.node.name] += 1
        n = self.names[part.node.name]
        return part.node.name if n == 1 else f"{part.node.name}_part{n}"

    def path(self, name: str) -> str:
        """See ``Rewriter``."""
        return name


def _resized(value: Any, sizes: Mapping[int, int]) -> Any:
    """A tensor without numbers, like ``value`` but for the sizes of some axes; what is no tensor as it is."""
    if not isinstance(value, Tensor) or not sizes:
        return value
    return value.new_empty([sizes.get(axis, n) for axis, n in enumerate(value.shape)])

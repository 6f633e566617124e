"""The rewriter of narrowed networks: cut layers get new weights, makers of sorted or turned channels other rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from prune_tool.surgery.analysis import Analysis, Part, channel_axis
from prune_tool.surgery.capture import image_input
from prune_tool.surgery.cones import Cone, Leak
from prune_tool.surgery.demand import Indices
from prune_tool.surgery.groups import HiddenGroup
from prune_tool.surgery.scores import Side
from prune_tool.surgery.site import shape_of
from prune_tool.surgery.slicing import Rewriter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Given:
    """What a cut layer computes with.

    Attributes:
        path: of its module.
        weight: (out, k / groups, *kernel).
        bias: (out,).
    """

    path: str
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Turn:
    """Rows ``to (heads, n)`` of a maker become ``matrix (heads, n, d)`` times its rows ``source (heads, d)``."""

    source: Indices
    to: Indices
    matrix: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        turned, matrix = tensor.clone(), self.matrix.to(tensor.device, torch.float64)
        rows = torch.einsum("hnd,hd...->hn...", matrix, tensor[torch.from_numpy(self.source)].double())
        turned[torch.from_numpy(self.to)] = rows.to(tensor.dtype)
        return turned


class NarrowRewriter(Rewriter):
    """Gives cut layers their new weights, and sorts or turns the rows of what makes their channels.

    Attributes:
        given: what each cut layer gets.
        orders: parameter or cut layer -> axis, and which row comes to which place of it.
        turns: parameter or cut layer -> what becomes of its rows; of others than ``orders`` sorts.
    """

    def __init__(self, captured: fx.GraphModule, analysis: Analysis, given: Mapping[fx.Node, Given]) -> None:
        super().__init__(captured, analysis)
        self.given = given
        self.orders: dict[fx.Node, tuple[int, Indices]] = {}
        self.turns: dict[fx.Node, list[_Turn]] = {}
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
            axis = rows.axis if node.op == "get_attr" else 0  # what is given to a layer has its rows in front
            _, moved = self.orders.setdefault(node, (axis, np.arange(size)))
            moved[rows.of_channel[channels.ravel()]] = rows.of_channel[order.ravel()]

    def turn(self, side: Side, matrix: Tensor, at: Indices) -> None:
        """Have the dimensions ``at (n,)`` of every head made by ``matrix (heads, n, d)`` of what makes all of them."""
        if matrix.shape[::2] != side.rows.shape:
            raise ValueError(f"{side.maker.name} makes (heads, d) {side.rows.shape}; got a map {tuple(matrix.shape)}")
        turn = _Turn(source=side.rows, to=side.rows[:, at], matrix=matrix)
        for node in (side.maker,) if side.maker in self.given else side.parameters:
            self.turns.setdefault(node, []).append(turn)

    def arranged(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """See ``Rewriter``."""
        if node in self.orders:
            axis, order = self.orders[node]
            tensor = tensor.index_select(axis, torch.from_numpy(order).to(tensor.device))
        for turn in self.turns.get(node, []):
            tensor = turn.of(tensor)
        return tensor

    def arguments(self, part: Part) -> list[Any]:
        """See ``Rewriter``."""
        args = super().arguments(part)
        if part.node in self.given:
            given = self.given[part.node]
            args[1] = self.held(part, f"{given.path}.weight", given.weight)
            args[2] = self.held(part, f"{given.path}.bias", given.bias)
        return args

    def held(self, part: Part, path: str, given: Tensor) -> fx.Node:
        """The rows of a given weight or bias that ``part`` computes, as a parameter like the one before."""
        like = part.node.all_input_nodes[1].meta["val"]
        rows = part.plan.carries.axes[channel_axis(part.node)]
        tensor = self.arranged(part.node, given.detach().to(device=like.device, dtype=like.dtype))
        if rows is not None:
            tensor = tensor.index_select(0, torch.from_numpy(rows).to(like.device))
        return self.store(path, nn.Parameter(tensor.clone()))

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

"""The product of queries and keys, as calibration needs it: both as rows, and its call with fewer dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, ops

from prune_tool.surgery.analysis import contracted_axes
from prune_tool.surgery.groups import HiddenGroup, node_of
from prune_tool.surgery.narrowing import Cut, Turned
from prune_tool.surgery.site import shape_of


class Product:
    """Attention, or a batched product of queries with transposed keys, of a captured network.

    Attributes:
        group: the dimensions that it contracts.
        node: its call.
        inputs: queries and keys.
        n_outputs: heads; each head's scores count for themselves.
        output_axis: axis of the scores on which the heads lie.
    """

    def __init__(self, captured: fx.GraphModule, group: HiddenGroup) -> None:
        self.group = group
        self.node = node_of(captured, group.consumer)
        axes = contracted_axes(self.node)
        self.inputs = (Dimensions(self.node, 0, axes[0]), Dimensions(self.node, 1, axes[1], is_centred=True))
        self.n_outputs: int = shape_of(self.node)[1]
        self.output_axis = 1

    @property
    def width(self) -> int:
        """Dimensions of a head."""
        return self.group.width

    def call(self, args: Sequence[Any], made: Cut) -> Tensor:
        """What it answers to queries and keys of fewer dimensions, given those of all."""
        assert isinstance(made, Turned)
        queries, keys, *others = args
        query, key = made.query.to(queries), made.key.to(keys)
        is_transposed = self.node.target is ops.aten.matmul.default
        assert callable(self.node.target)
        fewer = queries @ query.mT, key @ keys if is_transposed else keys @ key.mT
        found: Tensor = self.node.target(*fewer, *others, **self.node.kwargs)
        return found


class Dimensions:
    """Queries or keys: what a product reads.

    Attributes:
        input: the value.
        width: heads times dimensions.
    """

    def __init__(self, product: fx.Node, slot: int, axis: int, *, is_centred: bool = False) -> None:
        source = product.args[slot]
        assert isinstance(source, fx.Node)
        self.input = source
        self._axis = axis
        self._is_centred = is_centred
        shape = shape_of(self.input, batch=1)
        self.width = shape[1] * shape[axis]
        self.n_places = math.prod(shape) // self.width

    def rows(self, values: Tensor, places: Tensor) -> Tensor:
        """``(b, len(places), width)`` on the CPU, of ``b`` images; keys about the mean of those of one product.

        Args:
            values: ``(b, heads, tokens, d)``, or so many products an image one after the other; or transposed.
            places: int64, below ``n_places``.
        """
        by_token = values.movedim(self._axis, -1)
        if self._is_centred:  # softmax does not see what is added to all scores of a query
            by_token = by_token - by_token.mean(2, keepdim=True)
        by_place = by_token.transpose(1, 2).reshape(-1, self.n_places, self.width)
        return by_place[:, places.to(values.device)].cpu()

"""Attention scores: products of queries and keys that layers make directly, so that both may have fewer dimensions.

A score is ``q . k`` over the dimensions of a head. Where a convolution or a linear layer makes the queries, another (or
the same) the keys, and nothing but changes of layout lies between them and the product, any linear map of a head's
queries can be had by other rows of the layer, and so for its keys. Rotary embeddings, norms of queries and whatever
else acts on single dimensions come between, and such products are left out here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, ops

from prune_tool.surgery.analysis import PRODUCTS, channel_axis, contracted_axes
from prune_tool.surgery.demand import Indices
from prune_tool.surgery.layers import LAYERS, Layer, known_as, path_of
from prune_tool.surgery.rules import RULES, layout
from prune_tool.surgery.site import attribute, concrete, is_tensor, shape_of

aten = ops.aten

_AXES = ("batch", "heads", "tokens", "dimensions")
_BATCH = 2  # in which values are followed: one of 1 would not tell a copy from a broadcast
_MOVES = {layout.reshape, layout.permute, layout.transpose, layout.slice_, layout.select, layout.index_select}
_COPIES = {aten.clone.default, aten.contiguous.default, aten.alias.default}
_SCALES = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """What makes the queries or the keys.

    Attributes:
        maker: a convolution or a linear layer with parameters of its own.
        rows: (heads, d), which of its output channels is which dimension.
    """

    maker: fx.Node
    rows: Indices

    @property
    def parameters(self) -> tuple[fx.Node, ...]:
        """Weight and, where it has one, bias."""
        return tuple(node for node in self.maker.args[1:3] if isinstance(node, fx.Node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(Layer):
    """One product of queries and keys; its channels are the dimensions of a head, the same places in all heads.

    Attributes:
        query: what makes its first argument.
        key: what makes its second one.
    """

    query: Side
    key: Side


def scores_of(captured: fx.GraphModule) -> tuple[Scores, ...]:
    """Every product of queries and keys whose layers can be given other rows, in graph order."""
    found: list[Scores] = []
    for node in captured.graph.nodes:
        if node.target in PRODUCTS and len(shape_of(node)) == len(_AXES):
            query, key = (_side(captured, node, slot, axis) for slot, axis in contracted_axes(node).items())
            if query is not None and key is not None and _fit(query, key):
                found.append(_described(captured, node, query, key, {scores.name for scores in found}))
    return tuple(found)


def _described(captured: fx.GraphModule, node: fx.Node, query: Side, key: Side, taken: Collection[str]) -> Scores:
    path = path_of(query.maker)
    name = f"{known_as(captured, path)}.scores"
    return Scores(
        name=f"{name}@{node.name}" if name in taken else name,
        path=path,
        node=node,
        width=query.rows.shape[1],
        groups=1,
        query=query,
        key=key,
    )


def _fit(query: Side, key: Side) -> bool:
    """Whether every query head has a key head of its own, and no row makes both."""
    is_apart = query.maker is not key.maker or not np.intersect1d(query.rows, key.rows).size
    return query.rows.shape == key.rows.shape and is_apart


def _side(captured: fx.GraphModule, product: fx.Node, slot: int, axis: int) -> Side | None:
    """What makes an argument of a product, where that is a layer and every dimension one of its output channels."""
    follow = _Follow(captured)
    try:
        channels = follow.value(product.args[slot])
    except _ElsewhereError:
        return None
    if follow.maker is None:  # constant queries
        return None
    by_dimension = channels.movedim(axis, -1)
    rows = by_dimension[0, :, 0, :]
    is_one_each = bool((by_dimension == rows[None, :, None, :]).all()) and len(rows.unique()) == rows.numel()
    return Side(maker=follow.maker, rows=rows.numpy()) if is_one_each else None


class _ElsewhereError(Exception):
    """Something else than a change of layout lies between a layer and a product."""


class _Follow:
    """Finds the layer that a value is made by, and which of its output channels comes to which place of the value.

    Attributes:
        maker: the layer, once a value was asked for.
    """

    def __init__(self, captured: fx.GraphModule) -> None:
        self._captured = captured
        self.maker: fx.Node | None = None

    def value(self, node: Any) -> Any:
        """A value with the numbers of the layer's output channels in place of what they say."""
        if not isinstance(node, fx.Node):
            return node
        if not is_tensor(node):
            return _number(node)
        if node.op == "get_attr":
            return attribute(self._captured, str(node.target)).detach()
        if node.target in LAYERS:
            return self._made(node)
        if node.target in _SCALES and not isinstance(node.args[1], fx.Node):
            return self.value(node.args[0])
        if RULES.get(node.target) not in _MOVES and node.target not in _COPIES:
            raise _ElsewhereError
        return node.target(*fx.map_arg(node.args, self.value), **fx.map_arg(node.kwargs, self.value))  # type: ignore[operator]

    def _made(self, node: fx.Node) -> Tensor:
        weight, bias = node.args[1:3]
        is_own = all(_is_own(held, node) for held in (weight, bias) if held is not None)
        is_dense = node.target is aten.linear.default or node.args[6] == 1  # rows of groups read different channels
        if not (is_own and is_dense) or self.maker not in (None, node):
            raise _ElsewhereError
        self.maker = node
        shape = shape_of(node, batch=_BATCH)
        axis = channel_axis(node)
        return torch.arange(shape[axis]).expand(*shape[:axis], *shape[axis + 1 :], -1).movedim(-1, axis)


def _is_own(held: Any, layer: fx.Node) -> bool:
    """Whether a weight or bias is a parameter that nobody else reads."""
    return isinstance(held, fx.Node) and held.op == "get_attr" and list(held.users) == [layer]


def _number(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return concrete(value, _BATCH) if isinstance(value, int | torch.SymInt) else value

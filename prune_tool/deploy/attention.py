"""Attention as torch.onnx can write it: over four axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, ops

aten = ops.aten


def over_four_axes(program: torch.export.ExportedProgram) -> None:
    """Give every attention queries, keys and values of (batch, heads, places, width); computes the same. In place.

    torch.onnx writes no other. Axes between the batch and the places (heads of windows, in Hiera) become one, and where
    there are none, one is put in. Attention whose mask or whose parts do not all have these axes is left as it is.
    """
    graph = program.graph
    for node in graph.nodes:
        if node.target is aten.scaled_dot_product_attention.default and _can_be_four(node):
            _rewrite(graph, node)
    program.graph_module.recompile()


def _can_be_four(node: fx.Node) -> bool:
    query, *others = _shapes(node)
    between = query[1:-2]
    masks = [other for other in others[2:] if len(other) > 2]
    return len(query) not in {2, 4} and all(
        len(other) == len(query) and other[1:-2] == between for other in (*others[:2], *masks)
    )


def _shapes(node: fx.Node) -> list[tuple[Any, ...]]:
    """Of queries, keys, values and, where there is one, the mask."""
    inputs = [*node.args[:4], node.kwargs.get("attn_mask")]
    return [tuple(each.meta["val"].shape) for each in inputs if isinstance(each, fx.Node)]


def _rewrite(graph: fx.Graph, node: fx.Node) -> None:
    between = list(node.meta["val"].shape[1:-2])
    n_axes = node.meta["val"].ndim

    def four(value: fx.Node) -> fx.Node:
        """``value`` with one axis between the first and the last two."""
        if value.meta["val"].ndim != n_axes:  # a mask of places alone
            return value
        if between:
            return _called(graph, aten.flatten.using_ints, (value, 1, -3), lambda x: x.flatten(1, -3))
        return _called(graph, aten.unsqueeze.default, (value, 1), lambda x: x.unsqueeze(1))

    with graph.inserting_before(node):
        node.args = fx.map_arg(node.args, four)
        node.kwargs = fx.map_arg(node.kwargs, four)
    value = node.meta["val"]
    node.meta = {**node.meta, "val": value.flatten(1, -3) if between else value.unsqueeze(1)}
    users = list(node.users)
    with graph.inserting_after(node):
        if between:
            back = _called(graph, aten.unflatten.int, (node, 1, between), lambda x: torch.unflatten(x, 1, between))
        else:
            back = _called(graph, aten.squeeze.dim, (node, 1), lambda x: x.squeeze(1))
    for user in users:
        user.replace_input_with(node, back)


def _called(
    graph: fx.Graph, target: Any, args: tuple[Any, ...], compute: Callable[[torch.Tensor], torch.Tensor]
) -> fx.Node:
    """A call with the value that the exporter expects every node to know."""
    node = graph.call_function(target, args)
    node.meta["val"] = compute(args[0].meta["val"])
    return node

"""The layers of a captured network that contract channels with weights: which there are, and what they hold.

A layer is a convolution over batched maps or a linear layer. Its channels are the axis of its input that the weight
sums over. A depthwise convolution sums over one channel at a time, so it has none to choose from and is no layer here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, ops

from prune_tool.surgery.analysis import channel_axis
from prune_tool.surgery.capture import image_input
from prune_tool.surgery.site import attribute, shape_of

aten = ops.aten

LAYERS = {
    aten.linear.default,
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
}
"""Calls that contract channels with weights."""

_WRAPPER = "backbone."
"""Where ``TappedBackbone`` holds the network that the user knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution or linear layer.

    Attributes:
        name: path of the module that holds its weight, as the user knows it; unique.
        path: the same in the captured network.
        node: its call.
        width: channels of its input.
        groups: equal runs of channels that are contracted apart; 1 for all but grouped convolutions.
    """

    name: str
    path: str
    node: fx.Node
    width: int
    groups: int


def layers_of(captured: fx.GraphModule) -> tuple[Layer, ...]:
    """Every layer that contracts what the images say with what they do not, in graph order."""
    alive = _reading_images(captured.graph)
    paths = {node: path_of(node) for node in captured.graph.nodes if _is_layer(node, alive)}
    n_readers = Counter(paths.values())
    found = []
    for node, path in paths.items():
        name = known_as(captured, path)
        groups: Any = 1 if node.target is aten.linear.default else node.args[6]
        found.append(
            Layer(
                name=name if n_readers[path] == 1 else f"{name}@{node.name}",
                path=path,
                node=node,
                width=shape_of(node.all_input_nodes[0])[channel_axis(node)],
                groups=groups,
            )
        )
    return tuple(found)


def known_as(captured: fx.GraphModule, path: str) -> str:
    """What the user calls the module at ``path`` of the captured network."""
    is_wrapped = all(name.startswith(_WRAPPER) for name, _ in captured.named_parameters())
    return path.removeprefix(_WRAPPER) if is_wrapped else path


def _reading_images(graph: fx.Graph) -> set[fx.Node]:
    """Every node whose value depends on the images; their number alone does not count."""
    found = {image_input(graph)}
    for node in graph.nodes:
        if node.target is not aten.sym_size.int and any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _is_layer(node: fx.Node, alive: set[fx.Node]) -> bool:
    if node.op != "call_function" or node.target not in LAYERS:
        return False
    source, weight = node.args[0], node.args[1]
    if not isinstance(source, fx.Node) or not isinstance(weight, fx.Node) or source not in alive or weight in alive:
        return False
    shape = shape_of(weight)
    is_batched = node.target is aten.linear.default or len(shape_of(node)) == len(shape)
    return is_batched and node.args[2] not in alive and shape[1] > 1


def path_of(node: fx.Node) -> str:
    """Where the first matrix lies that the weight is computed from."""
    weight = node.all_input_nodes[1]
    matrix = next((n for n in _above(weight) if n.op == "get_attr" and len(shape_of(n)) > 1), None)
    return node.name if matrix is None else str(matrix.target).removesuffix(".weight")


def _above(node: fx.Node) -> Iterator[fx.Node]:
    """``node`` and everything that it is computed from."""
    yield node
    for source in node.all_input_nodes:
        yield from _above(source)


def held_by(captured: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The value of a node that does not depend on the images: a parameter as it is, or what is computed from some."""
    values = {n: attribute(captured, str(n.target)).detach() for n in _above(node) if n.op == "get_attr"}

    def value(at: fx.Node) -> Any:
        if at not in values:
            values[at] = at.target(*fx.map_arg(at.args, value), **fx.map_arg(at.kwargs, value))  # type: ignore[operator]
        return values[at]

    with torch.no_grad():
        found: torch.Tensor = value(node)
    return found

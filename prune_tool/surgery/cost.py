"""What a network costs, counted on the graph that runs: multiply-accumulates and parameters.

Convention: one multiply-accumulate is one MAC, per image. Convolutions, linear layers, matrix products and both
products of attention count; normalisation, activation, pooling and copies do not (they are below one per cent of any
backbone). Parameters are the trained numbers the network holds: weights, biases, norms' scale and shift; running
statistics and index tables do not count. These are the conventions of timm's published tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import fx, nn, ops

from prune_tool.surgery.analysis import analyse, channel_axis, is_given
from prune_tool.surgery.demand import Demand, Indices
from prune_tool.surgery.site import shape_of

aten = ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one forward pass.

    Attributes:
        macs: multiply-accumulates per image.
        n_params: trained numbers.
        n_calls: operators called. Of a cut that is only planned, without the gathers that slicing puts between them;
            so it is not compared.
    """

    macs: int
    n_params: int
    n_calls: int = field(compare=False)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            macs=self.macs - other.macs, n_params=self.n_params - other.n_params, n_calls=self.n_calls - other.n_calls
        )


def cost_of(
    captured: fx.GraphModule,
    kept: Mapping[int, Indices | None] | None = None,
    *,
    round_to: int = 1,
    cuts: Mapping[fx.Node, Indices] | None = None,
) -> Cost:
    """Cost of ``captured`` as it is or, with ``kept``, of ``slice_graph(captured, kept, round_to=round_to)``.

    The latter is read off the plans; nothing is rewritten, so the search can ask hundreds of times.

    Args:
        captured: from ``capture``.
        kept: output number -> ascending indices kept on its last axis (``None``: all). Absent outputs are dropped.
        round_to: see ``analyse``.
        cuts: see ``analyse``. A layer that is cut counts with the weight and the bias that it will be given.
    """
    parameters = dict(captured.named_parameters())
    if kept is None:
        return _as_it_is(captured.graph, parameters)
    cuts = cuts or {}
    parts = analyse(captured.graph, kept, round_to=round_to, cuts=cuts).parts
    return Cost(
        macs=sum(macs_of(part.node, part.plan.carries, cuts) for part in parts),
        n_params=sum(
            params_of(part.node, part.plan.carries, cuts)
            for part in parts
            if is_given(part.node, cuts) or part.node.target in parameters
        ),
        n_calls=sum(part.node.op == "call_function" for part in parts),
    )


def macs_of(node: fx.Node, carries: Demand, cuts: Mapping[fx.Node, Indices]) -> int:
    """Multiply-accumulates per image of one call that computes ``carries``, reading of its input what ``cuts`` say."""
    macs = _macs(node, carries)
    if node not in cuts:
        return macs
    elsewhere = _weighing_values(carries, node) if node.target is aten.scaled_dot_product_attention.default else 0
    return elsewhere + (macs - elsewhere) * len(cuts[node]) // _input_shape(node, 0)[channel_axis(node)]


def params_of(node: fx.Node, carries: Demand, cuts: Mapping[fx.Node, Indices]) -> int:
    """Numbers held for ``carries`` of a parameter, or for a layer whose weight and bias are (to be) its own."""
    if node.op == "get_attr":
        return carries.volume(shape_of(node, batch=1))
    axis = channel_axis(node)
    n_columns = math.prod(_input_shape(node, 1)[1:])
    if node in cuts:
        n_columns = n_columns * len(cuts[node]) // _input_shape(node, 0)[axis]
    return carries.sizes(shape_of(node))[axis] * (n_columns + 1)


def _as_it_is(graph: fx.Graph, parameters: Mapping[str, nn.Parameter]) -> Cost:
    calls = [node for node in graph.nodes if node.op == "call_function"]
    held = {str(node.target) for node in graph.nodes if node.op == "get_attr"} & parameters.keys()
    return Cost(
        macs=sum(_macs(node, Demand.everything(len(shape_of(node)))) for node in calls),
        n_params=sum(parameters[name].numel() for name in held),
        n_calls=len(calls),
    )


def _macs(node: fx.Node, carries: Demand) -> int:
    """Multiply-accumulates of one call that computes ``carries``: what it contracts over is always read whole."""
    counter = _COUNTERS.get(node.target) if node.op == "call_function" else None
    return 0 if counter is None else counter(carries.sizes(shape_of(node, batch=1)), node)


def _input_shape(node: fx.Node, slot: int) -> tuple[int, ...]:
    source = node.args[slot]
    if not isinstance(source, fx.Node):
        raise TypeError(f"argument {slot} of {node.target} is no tensor")
    return shape_of(source, batch=1)


def _weighted(out: tuple[int, ...], node: fx.Node) -> int:
    """Convolution or linear: each output element sums over one row of the weight (argument 1)."""
    return math.prod(out) * math.prod(_input_shape(node, 1)[1:])


def _product(out: tuple[int, ...], node: fx.Node) -> int:
    return math.prod(out) * _input_shape(node, 0)[-1]


def _attention(out: tuple[int, ...], node: fx.Node) -> int:
    """Scores (l x s x d) and their product with the values (l x s x d_v), for every head."""
    *heads, n_queries, d_value = out
    *_, n_keys, d_key = _input_shape(node, 1)
    return math.prod(heads) * n_queries * n_keys * (d_key + d_value)


def _weighing_values(carries: Demand, node: fx.Node) -> int:
    """The second of the two."""
    return math.prod(carries.sizes(shape_of(node, batch=1))) * _input_shape(node, 1)[-2]


_COUNTERS: dict[object, Callable[[tuple[int, ...], fx.Node], int]] = {
    aten.conv1d.default: _weighted,
    aten.conv1d.padding: _weighted,
    aten.conv2d.default: _weighted,
    aten.conv2d.padding: _weighted,
    aten.conv3d.default: _weighted,
    aten.linear.default: _weighted,
    aten.matmul.default: _product,
    aten.bmm.default: _product,
    aten.mm.default: _product,
    aten.scaled_dot_product_attention.default: _attention,
}

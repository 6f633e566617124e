"""What a network costs, counted on the graph that runs: multiply-accumulates and parameters.

Convention: one multiply-accumulate is one MAC, per image. Convolutions, linear layers, matrix products and both
products of attention count; normalisation, activation, pooling and copies do not (they are below one per cent of any
backbone). Parameters are the trained numbers the network holds: weights, biases, norms' scale and shift; running
statistics and index tables do not count. These are the conventions of timm's published tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx, nn, ops

from prune_tool.surgery.analysis import Analysis, analyse
from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.demand import Indices
from prune_tool.surgery.site import Plan, Slot, inputs_of, shape_of

aten = ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one forward pass.

    Attributes:
        macs: multiply-accumulates per image.
        n_params: trained numbers.
    """

    macs: int
    n_params: int


def cost_of(captured: fx.GraphModule, kept: Mapping[int, Indices | None] | None = None, *, round_to: int = 1) -> Cost:
    """Cost of ``captured`` sliced to ``kept`` (default: as it is), from the plans alone; nothing is rewritten."""
    if kept is None:
        kept = dict.fromkeys(range(len(outputs_of(captured.graph))))
    analysis = analyse(captured.graph, kept, round_to=round_to)
    parameters = dict(captured.named_parameters())
    return Cost(
        macs=sum(_macs(node, plan, analysis) for node, plan in analysis.plans.items()),
        n_params=sum(_n_params(node, plan, parameters) for node, plan in analysis.plans.items()),
    )


def _n_params(node: fx.Node, plan: Plan, parameters: Mapping[str, nn.Parameter]) -> int:
    if node.op != "get_attr" or str(node.target) not in parameters:
        return 0
    return plan.carries.volume(shape_of(node, batch=1))


def _macs(node: fx.Node, plan: Plan, analysis: Analysis) -> int:
    counter = _COUNTERS.get(node.target) if node.op == "call_function" else None
    if counter is None:
        return 0
    out = plan.carries.sizes(shape_of(node, batch=1))
    sources = inputs_of(plan.args)
    return counter(out, lambda slot: plan.needs[slot].sizes(shape_of(sources[slot], batch=1)))


Shape = tuple[int, ...]


def _weighted(out: Shape, input_sizes: Callable[[Slot], Shape]) -> int:
    """Convolution or linear: each output element sums over one row of the weight (argument 1)."""
    return math.prod(out) * math.prod(input_sizes((1,))[1:])


def _product(out: Shape, input_sizes: Callable[[Slot], Shape]) -> int:
    return math.prod(out) * input_sizes((0,))[-1]


def _attention(out: Shape, input_sizes: Callable[[Slot], Shape]) -> int:
    """Scores (l x s x d) and their product with the values (l x s x d_v), for every head."""
    *heads, n_queries, d_value = out
    *_, n_keys, d_key = input_sizes((1,))
    return math.prod(heads) * n_queries * n_keys * (d_key + d_value)


_COUNTERS: dict[object, Callable[[Shape, Callable[[Slot], Shape]], int]] = {
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

"""What an error anywhere in a network does to the neurons that come out: one backward pass through its graph.

To first order an error ``e`` of a layer's output changes the network's outputs by ``J e``. For standardised outputs
and random signs ``v``, the gradient ``g = J' v`` has ``E[g_o^2] = sum_i J_io^2``: what an error of channel ``o`` counts
in the sum of squared changes, where errors of different channels and places are independent (Hutchinson's estimator,
as for the diagonal of the Gauss-Newton matrix in Martens, Sutskever and Swersky, "Estimating the Hessian by
back-propagating curvature", ICML 2012). So the errors of all layers are in one unit and can be summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from prune_tool.pipeline.consumer import Consumer
from prune_tool.redundancy.checks import Float64
from prune_tool.surgery.capture import outputs_of

_SIGNS = 4  # first word of the child seed: other draws of one seed have 0 to 3
_AT_ONCE = 8  # images of one backward pass: a ResNet-50 at 224 px holds some 150 MiB of each


def importance_of(captured: fx.GraphModule, images: Tensor, consumers: Sequence[Consumer], seed: int) -> list[Float64]:
    """What the squared error of each output of each layer counts.

    Args:
        captured: from ``capture``.
        images: (n, 3, h, w) float32 in [0, 1], on its device.
        consumers: the layers.
        seed: of the signs.

    Returns:
        For every layer ``(out,)`` float64: the expected squared change of the network's standardised neurons, averaged
        over those of an output and then over the outputs, per unit of squared error at each place of that channel.
    """
    batches = torch.split(images, _AT_ONCE)
    scales = _scales(captured, batches)
    signs = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_SIGNS,)))
    sums = [torch.zeros(len(consumer.weight), dtype=torch.float64) for consumer in consumers]
    for batch in batches:
        values = _run(captured, batch)
        loss = torch.zeros((), device=batch.device)
        for node, scale in zip(outputs_of(captured.graph), scales, strict=True):
            random = (signs.random_raw(values[node].numel()) & 1).astype(np.float32) * 2 - 1
            signed = values[node] * torch.from_numpy(random).reshape(values[node].shape).to(batch.device)
            loss = loss + (signed / scale).sum() / (len(scales) * scale.numel()) ** 0.5
        gradients = torch.autograd.grad(loss, [values[c.node] for c in consumers], materialize_grads=True)
        for i, (consumer, gradient) in enumerate(zip(consumers, gradients, strict=True)):
            by_channel = gradient.movedim(consumer.output_axis, 0).flatten(1)
            sums[i] += by_channel.double().square().sum(1).cpu() / len(images)
    return [total.numpy() for total in sums]


@torch.no_grad()
def _scales(captured: fx.GraphModule, batches: Iterable[Tensor]) -> list[Tensor]:
    """Standard deviations of every output's neurons; of those that are constant, 1."""
    outputs = zip(*(captured(batch) for batch in batches), strict=True)
    scales = [torch.cat(parts).std(0, correction=0) for parts in outputs]
    return [torch.where(scale > 0, scale, 1.0) for scale in scales]


def _run(captured: fx.GraphModule, batch: Tensor) -> dict[fx.Node, Any]:
    """Every value of one pass, with what autograd needs."""
    values: dict[fx.Node, Any] = {}

    def value(source: fx.Node) -> Any:
        return values[source]

    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = batch.detach().requires_grad_(True)
        elif node.op == "get_attr":
            values[node] = attrgetter(str(node.target))(captured)
        elif node.op == "call_function":
            values[node] = node.target(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))
    return values

"""What an error anywhere in a network does to the neurons that come out: one backward pass through its graph.

To first order an error ``e`` of a layer's output changes the network's outputs by ``J e``. For standardised outputs
and random signs ``v``, the gradient ``g = J' v`` has ``E[g_o^2] = sum_i J_io^2``: what an error of channel ``o`` counts
in the sum of squared changes, where errors of different channels and places are independent (Hutchinson's estimator,
as for the diagonal of the Gauss-Newton matrix in Martens, Sutskever and Swersky, "Estimating the Hessian by
back-propagating curvature", ICML 2012). So the errors of all layers are in one unit and can be summed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, ops

from prune_tool.pipeline.reader import Reader
from prune_tool.redundancy.checks import Float64
from prune_tool.surgery.capture import outputs_of

_SIGNS = 4  # first word of the child seed: other draws of one seed have 0 to 3
_AT_ONCE = 8  # images of one backward pass: a ResNet-50 at 224 px holds some 150 MiB of each


def importance_of(captured: fx.GraphModule, images: Tensor, readers: Sequence[Reader], seed: int) -> list[Float64]:
    """What the squared error of each output of each layer counts.

    Args:
        captured: from ``capture``.
        images: (n, 3, h, w) float32 in [0, 1], on its device.
        readers: the layers and the products of queries and keys.
        seed: of the signs.

    Returns:
        For every reader ``(n_outputs,)`` float64 (of a product, its heads, for scores that are not scaled yet): the
        expected squared change of the network's standardised neurons, averaged over those of an output and then over
        the outputs, per unit of squared error at each place of that channel.
    """
    batches = torch.split(images, _AT_ONCE)
    scales = _scales(captured, batches)
    signs = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_SIGNS,)))
    sums = [torch.zeros(reader.n_outputs, dtype=torch.float64) for reader in readers]
    for batch in batches:
        values, answers = _run(captured, batch, {reader.node for reader in readers})
        loss = torch.zeros((), device=batch.device)
        for node, scale in zip(outputs_of(captured.graph), scales, strict=True):
            random = (signs.random_raw(values[node].numel()) & 1).astype(np.float32) * 2 - 1
            signed = values[node] * torch.from_numpy(random).reshape(values[node].shape).to(batch.device)
            loss = loss + (signed / scale).sum() / (len(scales) * scale.numel()) ** 0.5
        gradients = torch.autograd.grad(loss, [answers[reader.node] for reader in readers], materialize_grads=True)
        for i, (reader, gradient) in enumerate(zip(readers, gradients, strict=True)):
            by_channel = gradient.movedim(reader.output_axis, 0).flatten(1)
            sums[i] += by_channel.double().square().sum(1).cpu() / len(images)
    return [total.numpy() for total in sums]


@torch.no_grad()
def _scales(captured: fx.GraphModule, batches: Iterable[Tensor]) -> list[Tensor]:
    """Standard deviations of every output's neurons; of those that are constant, 1."""
    outputs = zip(*(captured(batch) for batch in batches), strict=True)
    scales = [torch.cat(parts).std(0, correction=0) for parts in outputs]
    return [torch.where(scale > 0, scale, 1.0) for scale in scales]


def _run(
    captured: fx.GraphModule, batch: Tensor, readers: Collection[fx.Node]
) -> tuple[dict[fx.Node, Any], dict[fx.Node, Tensor]]:
    """Every value of one pass, with what autograd needs, and what readers answer: of attention, the scores."""
    values: dict[fx.Node, Any] = {}
    answers: dict[fx.Node, Tensor] = {}

    def value(source: fx.Node) -> Any:
        return values[source]

    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = batch.detach().requires_grad_(True)
        elif node.op == "get_attr":
            values[node] = attrgetter(str(node.target))(captured)
        elif node.op == "call_function":
            args = fx.map_arg(node.args, value)
            if node in readers and node.target is ops.aten.scaled_dot_product_attention.default:
                answers[node], values[node] = _attention(*args, **node.kwargs)
            else:
                values[node] = node.target(*args, **node.kwargs)
                answers |= {node: values[node]} if node in readers else {}
    return values, answers


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, _p: float, causal: bool, *, scale: float, **_: bool
) -> tuple[Tensor, Tensor]:
    """Products of queries and keys, and what attention makes of them; step by step, as fused attention keeps none."""
    products = query @ key.mT
    scores = products * scale
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return products, scores.softmax(-1) @ value

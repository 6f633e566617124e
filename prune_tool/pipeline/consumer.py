"""The layer that reads a hidden group, as calibration needs it: its input as rows, and its call with fewer inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, ops
from torch.nn import functional as F

from prune_tool.redundancy.layer import Folded, Layer
from prune_tool.surgery.groups import HiddenGroup, consumer_bias, consumer_weight, node_of
from prune_tool.surgery.narrowing import Cut, Narrowed
from prune_tool.surgery.site import shape_of


class Consumer:
    """A convolution or a linear layer of a captured network.

    Attributes:
        group: the hidden width it reads.
        node: its call.
        input: the value it reads.
        weight: ``(out, width / groups, *kernel)`` float32.
    """

    def __init__(self, captured: fx.GraphModule, group: HiddenGroup) -> None:
        self.group = group
        self.node = node_of(captured, group.consumer)
        self.input: fx.Node = self.node.all_input_nodes[0]
        self.weight: NDArray[np.float32] = consumer_weight(captured, group).cpu().numpy()
        bias = consumer_bias(captured, group)
        self._bias = torch.zeros(len(self.weight)) if bias is None else bias.cpu()
        self._is_linear = self.node.target is ops.aten.linear.default

    @property
    def width(self) -> int:
        """Neurons of the hidden group."""
        return self.group.width

    @property
    def inputs(self) -> tuple[Consumer]:
        """What is read: one value."""
        return (self,)

    @property
    def n_outputs(self) -> int:
        """Channels of the result."""
        return len(self.weight)

    def layer(self, importance: NDArray[np.float64]) -> Layer:
        """It in the terms of a reconstruction, its outputs counting as ``importance (out,)`` says."""
        n_groups = self.width // int(self.weight.shape[1])
        return Layer(
            weight=self.weight.astype(np.float64),
            n_groups=n_groups,
            n_parts=math.lcm(self.group.n_parts, n_groups),
            importance=importance,
        )

    @property
    def n_places(self) -> int:
        """Places of one image at which inputs are read."""
        shape = shape_of(self.input, batch=1)
        return math.prod(shape[:-1]) if self._is_linear else math.prod(self._read_sizes(shape[2:]))

    @property
    def output_axis(self) -> int:
        """Axis of the result on which its channels lie."""
        return -1 if self._is_linear else 1

    def rows(self, values: Tensor, places: Tensor) -> Tensor:
        """Inputs of b images at some ``places`` of each: ``(b, len(places), width)`` on the CPU.

        Args:
            values: ``(b, width, *space)`` before a convolution, ``(b, ..., width)`` before a linear layer.
            places: int64, below ``n_places``. What a convolution of one tap strides over is no place.
        """
        if not self._is_linear:
            for axis, stride in enumerate(self._strides(values.ndim - 2), start=2):
                values = values[(slice(None),) * axis + (slice(None, None, stride),)]
            values = values.flatten(2).mT
        by_place = values.reshape(-1, self.n_places, self.width)
        return by_place[:, places.to(values.device)].cpu()

    def call(self, args: Sequence[Any], narrowed: Cut) -> Tensor:
        """What the narrowed layer answers to the whole width, its first argument; its weights are no matter."""
        assert isinstance(narrowed, Narrowed)
        values: Tensor = args[0]
        kept = torch.from_numpy(narrowed.kept).to(values.device)
        weight, bias = narrowed.weight.to(values), narrowed.bias.to(values)
        if self._is_linear:
            return F.linear(values.index_select(-1, kept), weight, bias)
        assert callable(self.node.target)
        result: Tensor = self.node.target(values.index_select(1, kept), weight, bias, *self._geometry)
        return result

    def narrowed(self, kept: NDArray[np.int64], made: Folded) -> Narrowed:
        """The layer with the weights ``made`` for the neurons ``kept``.

        The shift of a tap counts at the outputs for which it reads an input and no padding. The bias takes its mean
        over all of them, so that the mean of the output stays, if not that of every place near the border.
        """
        shift = (made.shift * self._inside()).reshape(len(self.weight), -1).sum(axis=1)
        return Narrowed(
            kept=kept,
            weight=torch.from_numpy(made.weight.astype(np.float32)),
            bias=(self._bias.double() + torch.from_numpy(shift)).float(),
        )

    def _inside(self) -> NDArray[np.float64]:
        """``(*kernel)``: share of the outputs for which each tap reads an input and no padding."""
        kernel = self.weight.shape[2:]
        if math.prod(kernel) == 1:
            return np.ones(kernel)
        taps = torch.eye(math.prod(kernel)).reshape(-1, 1, *kernel)
        ones = torch.ones(1, 1, *shape_of(self.input, batch=1)[2:])
        assert callable(self.node.target)
        reads: Tensor = self.node.target(ones, taps, None, *self._geometry[:3], 1)
        share: NDArray[np.float64] = reads.flatten(2).double().mean(2).reshape(kernel).numpy()
        return share

    @property
    def _geometry(self) -> tuple[Any, ...]:
        """Stride, padding, dilation and groups of a convolution, as in its call."""
        return self.node.args[3:7]

    def _strides(self, n_axes: int) -> tuple[int, ...]:
        stride: list[int] = list(self._geometry[0])
        is_pointwise = math.prod(self.weight.shape[2:]) == 1
        return tuple(stride * n_axes if len(stride) == 1 else stride) if is_pointwise else (1,) * n_axes

    def _read_sizes(self, space: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-(-size // stride) for size, stride in zip(space, self._strides(len(space)), strict=True))

"""A layer by its numbers: what it does to its inputs, what it is narrowed to, and what that loses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import UsageError
from prune_tool.redundancy.checks import Float64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folded:
    """What a narrowed layer computes with.

    Attributes:
        weight: ``(out, k / groups, *kernel)`` float64, over the kept inputs in ascending order.
        shift: ``(out, *kernel)`` float64, what each tap adds to the output where it reads inputs: the mean of what is
            not reconstructed. Summed over the kernel it is the shift of the bias, but for taps in zero padding.
    """

    weight: Float64
    shift: Float64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorCurve:
    """Expected squared error of a layer's output, summed over outputs and taps, for every number of inputs kept.

    Attributes:
        absolute: ``(k + 1,)`` float64; entry ``j`` keeps the first ``j`` inputs of an order.
        total: variance of the output, summed likewise: the error where nothing is kept but the mean.
    """

    absolute: Float64
    total: float

    @property
    def relative(self) -> Float64:
        """``(k + 1,)``, share of the output's variance that is lost; all 0 where the output does not vary."""
        return self.absolute / self.total if self.total > 0 else np.zeros_like(self.absolute)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """What a layer does to its ``w`` inputs.

    Attributes:
        weight: ``(out, w / n_groups, *kernel)`` float64.
        n_groups: of a grouped convolution; group ``i`` reads the ``i``-th of as many equal runs of the inputs, and so
            do its outputs.
        n_parts: equal runs of the inputs of which as many are to be kept from each; a multiple of ``n_groups``.
        importance: ``(out,)`` float64, what the squared error of each output counts, at least 0. It weighs what is kept
            and what errors are, and leaves folded weights as they are: every output has its own.

    Raises:
        UsageError: shapes or numbers that do not fit each other.
    """

    weight: Float64
    n_groups: int
    n_parts: int
    importance: Float64

    def __post_init__(self) -> None:
        n_out = len(self.weight)
        if self.n_parts % self.n_groups or n_out % self.n_groups or self.width % self.n_parts:
            raise UsageError(
                asked=f"narrow a layer of weight {self.weight.shape}",
                found=f"{self.width:,} inputs in {self.n_parts} parts and {self.n_groups} groups",
                remedy="Give a weight (out, inputs / groups, *kernel), and parts and groups that divide its inputs",
            )

    @property
    def width(self) -> int:
        """``w``, number of inputs."""
        return int(self.weight.shape[1]) * self.n_groups

    @cached_property
    def rows(self) -> Tensor:
        """``M (t, w)`` or its triangle: the weight, one row an output and a tap, by the root of what that counts."""
        n_out, n_in = self.weight.shape[:2]
        W = torch.from_numpy(self.weight).reshape(n_out, n_in, -1)
        W = W * torch.from_numpy(self.importance).sqrt()[:, None, None]
        by_group = W.reshape(self.n_groups, -1, n_in, W.shape[2]).movedim(2, 3).reshape(self.n_groups, -1, n_in)
        if by_group.shape[1] > n_in:
            by_group = torch.linalg.qr(by_group, mode="r").R
        rows = torch.zeros(self.n_groups, by_group.shape[1], self.n_groups, n_in, dtype=torch.float64)
        rows[torch.arange(self.n_groups), :, torch.arange(self.n_groups)] = by_group
        return rows.reshape(-1, self.width)

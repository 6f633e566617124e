"""Learn the second moments of one layer's inputs in two networks, row by row; all that narrowing that layer reads.

The *original* network has the inputs ``x``, the *narrowed* one ``x^``: the same neurons, behind layers that were
narrowed before. Where nothing was, they are one. A row is one place of one image. Sums are kept about the mean of the
first rows, so that means much larger than the spread do not cancel, and as nothing but a triangle: products of rows
are what narrowing takes longest for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import DataError
from prune_tool.redundancy.checks import Float64

_ROWS_PER_BLOCK = 4096  # rows summed at once: few enough for float32 products, which float64 then adds up
_COLUMNS_PER_BLOCK = 512  # neurons multiplied at once: so few that the half below the diagonal is hardly touched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointMoments:
    """Moments of a layer's ``w`` inputs in the original (``x``) and in the narrowed (``x^``) network; float64.

    Attributes:
        n_rows: rows summed.
        mean: ``(w,)``, mean of ``x``.
        mean_hat: ``(w,)``, mean of ``x^``.
        xx: ``(w, w)``, covariance of ``x`` (divisor ``n_rows``).
        xh: ``(w, w)``, of ``x`` (rows) with ``x^`` (columns).
        hh: ``(w, w)``, of ``x^``. Where both networks are the same so far, ``xx``, ``xh`` and ``hh`` are one array.
    """

    n_rows: int
    mean: Float64
    mean_hat: Float64
    xx: Float64
    xh: Float64
    hh: Float64

    def __post_init__(self) -> None:
        for array in (self.mean, self.mean_hat, self.xx, self.xh, self.hh):
            array.setflags(write=False)

    @property
    def width(self) -> int:
        """``w``, number of neurons."""
        return len(self.mean)

    def merged(self, other: JointMoments) -> JointMoments:
        """The moments of the rows of both."""
        n_rows = self.n_rows + other.n_rows
        mine, theirs = self.n_rows / n_rows, other.n_rows / n_rows
        gap, gap_hat = other.mean - self.mean, other.mean_hat - self.mean_hat
        xx = mine * self.xx + theirs * other.xx + mine * theirs * np.outer(gap, gap)
        is_same = self.hh is self.xx and other.hh is other.xx
        return JointMoments(
            n_rows=n_rows,
            mean=self.mean + theirs * gap,
            mean_hat=self.mean_hat + theirs * gap_hat,
            xx=xx,
            xh=xx if is_same else mine * self.xh + theirs * other.xh + mine * theirs * np.outer(gap, gap_hat),
            hh=xx if is_same else mine * self.hh + theirs * other.hh + mine * theirs * np.outer(gap_hat, gap_hat),
        )


class JointAccumulator:
    """Gathers the joint moments of ``width`` neurons; ``freeze`` hands them on."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._n_rows = 0
        self._origin = torch.zeros(0)  # of x, then of x^; of x alone while they are the same
        self._sums = torch.zeros(0, dtype=torch.float64)
        self._products = torch.zeros(0, 0, dtype=torch.float64)  # its upper triangle alone is right

    def update(self, x: Tensor, x_hat: Tensor | None = None) -> None:
        """Add rows: ``x (n, w)`` and, where the narrowed network differs, ``x_hat (n, w)``; floats on the CPU.

        Every call of one accumulator has ``x_hat`` or none has. Products are in the precision of the rows.

        Raises:
            DataError: a value that is not finite. Nothing has been added then.
        """
        both = x if x_hat is None else torch.cat([x, x_hat], dim=1)
        if both.numel() and not all(bool(bound.isfinite()) for bound in both.aminmax()):
            raise DataError(
                asked=f"moments of {self._width:,} hidden neurons",
                found="activations that are not finite",
                remedy="Check the weights: float32 activations of a working backbone are finite",
            )
        for rows in torch.split(both, _ROWS_PER_BLOCK):
            self._add(rows)

    def _add(self, rows: Tensor) -> None:
        if self._n_rows == 0:
            self._origin = rows[0] + (rows - rows[0]).mean(dim=0)  # exactly the value of a constant neuron
            self._sums = torch.zeros(rows.shape[1], dtype=torch.float64)
            self._products = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        deviations = rows - self._origin
        self._n_rows += len(rows)
        self._sums += deviations.sum(dim=0, dtype=torch.float64)
        for start in range(0, rows.shape[1], _COLUMNS_PER_BLOCK):
            block = deviations[:, start : start + _COLUMNS_PER_BLOCK]
            self._products[start : start + _COLUMNS_PER_BLOCK, start:] += block.mT @ deviations[:, start:]

    def freeze(self) -> JointMoments:
        """The moments of everything added so far; more may be added afterwards.

        Raises:
            DataError: no row has been added.
        """
        if self._n_rows == 0:
            raise DataError(
                asked="moments of hidden neurons", found="no images", remedy="Calibrate on at least two images"
            )
        w = self._width
        shift = self._sums / self._n_rows
        covariance = self._products.triu() + self._products.triu(1).mT
        covariance.div_(self._n_rows).addr_(shift, shift, alpha=-1)
        mean: Float64 = (self._origin + shift).numpy()
        is_same = len(mean) == w
        xx = _block(covariance, slice(w), slice(w))
        return JointMoments(
            n_rows=self._n_rows,
            mean=mean[:w],
            mean_hat=mean[-w:],
            xx=xx,
            xh=xx if is_same else _block(covariance, slice(w), slice(w, None)),
            hh=xx if is_same else _block(covariance, slice(w, None), slice(w, None)),
        )


def _block(covariance: Tensor, rows: slice, columns: slice) -> Float64:
    return np.ascontiguousarray(covariance[rows, columns].numpy())

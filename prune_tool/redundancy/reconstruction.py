"""Keep some inputs of a layer and fold the least-squares reconstruction of the others into its weights.

The layer reads ``x (w,)`` and answers ``y = W x + b``. Narrowed, it reads ``x^[S]`` and answers ``W' x^[S] + b'``,
where ``x^`` are the same neurons in a network that may be narrowed before this layer already: the target stays the
original network's output, so that errors do not pile up (asymmetric calibration, as in Li et al., "GPTAQ", ICML 2025).
With centred moments ``C`` the answer closest to ``y`` in the mean square is ``W' = W R`` with ``R = C_xS C_SS^-1``, and
``b'`` takes the shift of the mean.

A kernel of several taps is folded tap by tap with the same ``R``: its taps then read the reconstruction of each neuron
at their own place. That minimises the error summed over taps as if these did not correlate. The weight thus enters all
choices as ``M (t, w)``, one row an output and a tap, reduced to the triangle of its QR factorisation where ``t > w``:
only ``M'M`` matters. The inputs of a grouped layer are reconstructed from the kept ones of their own group.

**Regularisation.** The moments are those of networks in which every neuron carries a little independent noise, the same
in both: ``noise I`` is added to ``C_xx``, ``C_xh`` and ``C_hh``. So ``C_SS`` can be inverted whatever the rank, weights
are drawn towards those the layer was trained with and not towards zero, and every property of least squares stays
exact: keeping all inputs of an unchanged network changes nothing, the error falls with every input kept, and folding
is never worse than leaving the weights as they are, even on the rows themselves without any noise.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import UsageError
from prune_tool.records import Strategy
from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.joint import JointMoments
from prune_tool.redundancy.layer import ErrorCurve, Folded, Layer
from prune_tool.redundancy.pivoted import greedy_order
from prune_tool.redundancy.subsets import draw_interleaved


class Reconstruction:
    """A layer and the moments of its inputs: which inputs to keep, what that costs, and what to fold.

    Args:
        layer: which reads them.
        moments: of its ``w`` inputs.
        ridge: variance of the noise that regularises, as a share of the inputs' mean variance; above 0.

    Raises:
        UsageError: moments of another width, or a ridge that is not positive.
    """

    def __init__(self, layer: Layer, moments: JointMoments, ridge: float) -> None:
        if layer.width != moments.width or not ridge > 0:
            raise UsageError(
                asked=f"reconstruct {layer.width:,} inputs with ridge {ridge:g}",
                found=f"moments of {moments.width:,}",
                remedy="Give moments of the layer's own inputs, and a ridge above 0",
            )
        self.layer = layer
        self.moments = moments
        self._equations = _Equations(layer, moments)
        self.noise = ridge * self._equations.mean_variance

    def regularised(self, ridge: float) -> Reconstruction:
        """The same with another strength, from the same sums."""
        other = copy(self)
        other.noise = ridge * self._equations.mean_variance
        return other

    @property
    def width(self) -> int:
        """``w``, number of inputs."""
        return self.moments.width

    def order(self, strategy: Strategy, n_picks: int | None = None, *, seed: int = 0, place: int = 0) -> Int64:
        """The first ``n_picks`` inputs in the order in which to keep them, by default all, int64; parts take turns.

        Args:
            strategy: ``random`` draws them. ``pivoted`` takes next the one that lowers the error of the folded layer
                most, given those before it.
            n_picks: how many.
            seed: of the draw.
            place: of the layer in its network: every layer has a draw of its own.
        """
        if strategy == "random":
            return draw_interleaved(self.width, self.layer.n_parts, seed, place)[:n_picks]
        n_picks = self.width if n_picks is None else n_picks
        return greedy_order(self.gram.numpy(), self.cross.numpy(), n_picks, self.noise, self.layer.n_parts)

    def error_curve(self, order: Int64, *, fold: bool = True) -> ErrorCurve:
        """Errors on the rows of the moments, along an order or its prefix ``(k,)``, from one factorisation.

        Folded, they include that of the noise which regularises, and so bound what is left on the rows from above. Not
        folded, inputs that are not kept are zero and the others' weights stay.
        """
        absolute = self._folded_errors(order) if fold else self._unfolded_errors(order)
        return ErrorCurve(absolute=absolute, total=self.total)

    def fold(self, kept: Int64) -> Folded:
        """What the layer computes with where it reads the inputs ``kept (k,)``, ascending, as many from each part."""
        R, gap = self._reconstruction(kept)
        n_out, n_in, *kernel = self.layer.weight.shape
        W = torch.from_numpy(self.layer.weight).reshape(self.layer.n_groups, n_out // self.layer.n_groups, n_in, -1)
        folded = torch.einsum("gocu,gcs->gosu", W, R)
        shift = torch.einsum("gocu,gc->gou", W, gap)
        return Folded(
            weight=folded.reshape(n_out, len(kept) // self.layer.n_groups, *kernel).numpy(),
            shift=shift.reshape(n_out, *kernel).numpy(),
        )

    def drop(self, kept: Int64) -> Folded:
        """The same without folding: the weights of the kept inputs as they were, no shift."""
        n_out, n_in, *kernel = self.layer.weight.shape
        by_group = kept.reshape(self.layer.n_groups, -1) - n_in * np.arange(self.layer.n_groups)[:, None]
        W = self.layer.weight.reshape(self.layer.n_groups, n_out // self.layer.n_groups, n_in, *kernel)
        weight = np.concatenate([part[:, own] for part, own in zip(W, by_group, strict=True)])
        return Folded(weight=weight, shift=np.zeros((n_out, *kernel)))

    def _reconstruction(self, kept: Int64) -> tuple[Tensor, Tensor]:
        """``R (groups, w / groups, k / groups)`` and what it leaves of the mean, ``(groups, w / groups)``.

        Written as the kept inputs themselves plus a correction, which is exactly 0 for inputs that did not change.
        """
        moments, n_in = self.moments, self.width // self.layer.n_groups
        R, gap = [], []
        for group, own in enumerate(torch.from_numpy(kept).reshape(self.layer.n_groups, -1)):
            run = slice(group * n_in, (group + 1) * n_in)
            itself = torch.zeros(n_in, len(own), dtype=torch.float64)
            itself[own - run.start, torch.arange(len(own))] = 1.0
            C_SS = _tensor(moments.hh)[own][:, own]
            residual = _tensor(moments.xh)[run][:, own] - itself @ C_SS
            C_SS.diagonal().add_(self.noise)
            correction = torch.cholesky_solve(residual.mT, torch.linalg.cholesky(C_SS)).mT
            R.append(itself + correction)
            gap.append(_tensor(moments.mean)[run] - R[-1] @ _tensor(moments.mean_hat)[own])
        return torch.stack(R), torch.stack(gap)

    @property
    def gram(self) -> Tensor:
        """``(w, w)``, noisy ``C_hh``, 0 between groups."""
        gram = self._equations.gram.clone()
        gram.diagonal().add_(self.noise)
        return gram

    @property
    def cross(self) -> Tensor:
        """``(w, t)``, noisy ``C_hx M'``."""
        return self._equations.cross + self.noise * self.layer.rows.mT

    @cached_property
    def total(self) -> float:
        """Variance of the output: the trace of ``M C_xx M'``."""
        M = self.layer.rows
        return float(((M @ _tensor(self.moments.xx)) * M).sum())

    def _folded_errors(self, order: Int64) -> Float64:
        """Each input's row of ``Z = L^-1 cross[order]`` with ``gram[order, order] = L L'`` explains its square."""
        at = torch.from_numpy(order)
        L = torch.linalg.cholesky(self.gram[at][:, at])
        Z = torch.linalg.solve_triangular(L, self.cross[at], upper=False)
        noisy_total = self.total + self.noise * float(self.layer.rows.square().sum())
        errors = torch.full((len(order) + 1,), noisy_total, dtype=torch.float64)
        errors[1:] -= Z.square().sum(dim=1).cumsum(0)
        return errors.clamp_(min=0).numpy()

    def _unfolded_errors(self, order: Int64) -> Float64:
        """With second moments about 0: ``E|M x|^2 - 2 M_S E[x^_S x'] M' + M_S E[x^_S x^_S'] M_S'``, running sums."""
        at = torch.from_numpy(order)
        mean, mean_hat = _tensor(self.moments.mean), _tensor(self.moments.mean_hat)
        P = self.layer.rows.mT @ self.layer.rows
        all_of_it = self.total + float((self.layer.rows @ mean).square().sum())
        explained = ((_tensor(self.moments.xh) + torch.outer(mean, mean_hat)) * P).sum(dim=0)[at].cumsum(0)
        own = (P * (_tensor(self.moments.hh) + torch.outer(mean_hat, mean_hat)))[at][:, at]
        errors = torch.full((len(order) + 1,), all_of_it, dtype=torch.float64)
        errors[1:] += (2 * own.tril().sum(1) - own.diagonal()).cumsum(0) - 2 * explained
        return errors.clamp_(min=0).numpy()


class _Equations:
    """The normal equations before anything regularises them, whatever does."""

    def __init__(self, layer: Layer, moments: JointMoments) -> None:
        self._layer, self._moments = layer, moments
        mean_variance = float(moments.hh.diagonal().mean())
        self.mean_variance = mean_variance if mean_variance > 0 else 1.0

    @cached_property
    def gram(self) -> Tensor:
        """``C_hh (w, w)``, 0 between groups."""
        return _tensor(self._moments.hh) * self._mask

    @cached_property
    def cross(self) -> Tensor:
        """``C_hx M' (w, t)``, of own groups."""
        return (_tensor(self._moments.xh).mT * self._mask) @ self._layer.rows.mT

    @cached_property
    def _mask(self) -> Tensor:
        """``(w, w)``, 1 where two inputs are of one group."""
        group = torch.arange(self._layer.width) * self._layer.n_groups // self._layer.width
        return (group[:, None] == group).double()


def _tensor(array: Float64) -> Tensor:
    """A copy: PyTorch warns of memory that it must not write to."""
    return torch.tensor(array)

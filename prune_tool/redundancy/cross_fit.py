"""How strongly to regularise a fold, and what it loses on other images: two halves judge each other.

The inputs of a late layer are a few thousand neurons at a few places of a few hundred images, so that least squares can
reconstruct there what it will not find again elsewhere. Folds made from the one half of the images are therefore
judged on the other, in closed form from the moments of both, for every number of inputs kept; each number has the
strength that served it best. Folds that ship are then made with that strength from both halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.joint import JointMoments
from prune_tool.redundancy.layer import ErrorCurve, Layer
from prune_tool.redundancy.reconstruction import Reconstruction


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CrossFit:
    """Errors on the half that had no part, mean of both ways round, along an order of ``k`` inputs.

    Attributes:
        curve: ``(k + 1,)`` errors.
        ridge: ``(k + 1,)`` float64, strength chosen for each number.
    """

    curve: ErrorCurve
    ridge: Float64


def cross_fit(
    layer: Layer, halves: tuple[JointMoments, JointMoments], order: Int64, ridges: Sequence[float]
) -> CrossFit:
    """Judge folds along an order, or its prefix ``(k,)``, by two halves of the images.

    Args:
        layer: which reads the inputs.
        halves: moments of each.
        order: of the inputs.
        ridges: strengths to choose from, see ``Reconstruction``; the stronger among equals.

    Raises:
        UsageError: moments of another width, or a strength that is not positive.
    """
    strengths = sorted(ridges, reverse=True)
    errors = np.mean([_errors(layer, own, others, order, strengths) for own, others in (halves, halves[::-1])], axis=0)
    chosen = errors.argmin(axis=0)
    total = float(np.mean([Reconstruction(layer, half, 1.0).total for half in halves]))
    return CrossFit(
        curve=ErrorCurve(absolute=errors[chosen, np.arange(len(chosen))], total=total),
        ridge=np.array(strengths)[chosen],
    )


class Elsewhere:
    """What rows that had no part say of a layer, along an order of its inputs or a prefix ``(k,)`` of it.

    Args:
        layer: which reads the inputs.
        own: moments of the rows that it is folded with.
        others: moments of the rows that judge.
        order: of the inputs.
    """

    def __init__(self, layer: Layer, own: JointMoments, others: JointMoments, order: Int64) -> None:
        xx, xh, hh = map(torch.tensor, (others.xx, others.xh, others.hh))
        gap, gap_hat = torch.tensor(others.mean - own.mean), torch.tensor(others.mean_hat - own.mean_hat)
        M = layer.rows
        self._at = torch.from_numpy(order)
        self._hh = (hh + torch.outer(gap_hat, gap_hat))[self._at][:, self._at]
        self._hy = (xh.mT + torch.outer(gap_hat, gap))[self._at] @ M.mT
        self._total = float(((M @ xx) * M).sum() + (M @ gap).square().sum())

    def errors(self, problem: Reconstruction) -> Float64:
        """``(k + 1,)`` float64, of the layer folded with the own rows for every number of inputs kept.

        With ``gram[order, order] = L L'``, ``Z = L^-1 cross[order]`` and ``u = L^-1 (x^ - mean)[order]`` the folded
        layer of every size is ``sum_{j<k} Z_j u_j``, as in ``sweep``. Its error is a sum of moments of ``u`` here.
        """
        L = torch.linalg.cholesky(problem.gram[self._at][:, self._at])
        Z = torch.linalg.solve_triangular(L, problem.cross[self._at], upper=False)
        uu = torch.linalg.solve_triangular(L, self._hh, upper=False)
        before = torch.linalg.solve_triangular(L, uu.mT, upper=False).tril_()
        before.diagonal().mul_(0.5)  # every pair counts twice, the two ways round
        uy = torch.linalg.solve_triangular(L, self._hy, upper=False)
        errors = torch.full((len(self._at) + 1,), self._total, dtype=torch.float64)
        errors[1:] += 2 * (Z * (before @ Z - uy)).sum(dim=1).cumsum(0)
        return errors.clamp_(min=0).numpy()


def _errors(
    layer: Layer, own: JointMoments, others: JointMoments, order: Int64, strengths: Sequence[float]
) -> list[Float64]:
    problem, elsewhere = Reconstruction(layer, own, strengths[0]), Elsewhere(layer, own, others, order)
    return [elsewhere.errors(problem.regularised(strength)) for strength in strengths]

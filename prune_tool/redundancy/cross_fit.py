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

from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.joint import JointMoments
from prune_tool.redundancy.layer import ErrorCurve, Layer
from prune_tool.redundancy.reconstruction import Elsewhere, Reconstruction


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


def _errors(
    layer: Layer, own: JointMoments, others: JointMoments, order: Int64, strengths: Sequence[float]
) -> list[Float64]:
    problem, elsewhere = Reconstruction(layer, own, strengths[0]), Elsewhere(layer, own, others, order)
    return [problem.regularised(strength).errors_elsewhere(elsewhere) for strength in strengths]

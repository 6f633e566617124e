"""What a curve says: the critical size, and the diffuse redundancy of the layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_tool.errors import UsageError
from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.sweep import Curve

_ROUNDING = 1e-12  # so that a threshold computed from counts is met by those very counts


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalSize:
    """The size at which random subsets become accurate enough.

    Attributes:
        threshold: accuracy asked for, 0 to 1.
        width: neurons of the full layer.
        size: smallest size evaluated whose mean accuracy over draws meets the threshold; ``width`` where none does.
        reached: whether any size met the threshold. False says that ``size`` is the whole layer and still too little.
        mean, std, min, max: of the sizes at which each draw alone meets it. A draw that never does counts as ``width``;
            the standard deviation is the sample's (divisor ``r - 1``), 0 for a single draw.
    """

    threshold: float
    width: int
    size: int
    reached: bool
    mean: float
    std: float
    min: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Redundancy:
    """Diffuse redundancy at ``delta``: the share of the layer that random pruning may drop.

    Attributes:
        delta: share of the full layer's accuracy to keep, 0 to 1.
        strict: whether the size is the smallest that keeps it, rather than the nearest on the grid.
        critical: the size behind it, with its spread over draws.
    """

    delta: float
    strict: bool
    critical: CriticalSize

    @property
    def value(self) -> float:
        """``1 - k / d``: 0 where every neuron is needed, ``1 - 1 / d`` at most."""
        return 1 - self.critical.size / self.critical.width

    @property
    def spread(self) -> float:
        """Standard deviation over draws of the redundancy that each draw alone shows."""
        return self.critical.std / self.critical.width


def critical_size(curve: Curve, accuracy: float) -> CriticalSize:
    """The smallest size evaluated whose mean accuracy over draws is at least ``accuracy`` (0 to 1)."""
    floor = accuracy - _ROUNDING
    return _summary(
        curve,
        accuracy,
        size=_smallest(curve.accuracy >= floor, curve),
        per_draw=[_smallest(draw >= floor, curve) for draw in curve.n_correct / curve.n_val],
        reached=bool((curve.accuracy >= floor).any()),
    )


def diffuse_redundancy(curve: Curve, delta: float, *, strict: bool = True) -> Redundancy:
    """``DR = 1 - k* / d``, of Nanda et al., "Diffused Redundancy in Pre-trained Representations" (NeurIPS 2023).

    ``k*`` is the smallest size whose mean accuracy over draws is at least ``delta`` times the full layer's. The
    authors' published numbers take the size whose accuracy is *nearest* to that instead, which may lie below it:
    ``strict=False`` follows that rule (the smaller size among equals).

    Raises:
        UsageError: ``delta`` is not within 0 to 1, or the curve does not include the full layer.
    """
    if not (0 <= delta <= 1 and curve.sizes[-1] == curve.width):
        raise UsageError(
            asked=f"diffuse redundancy at delta {delta:g}",
            found=f"a curve up to {curve.sizes[-1]} of {curve.width} neurons",
            remedy="Use a delta from 0 to 1 and a curve that ends at the full layer",
        )
    threshold = delta * float(curve.accuracy[-1])
    if strict:
        return Redundancy(delta=delta, strict=True, critical=critical_size(curve, threshold))
    nearest = _summary(
        curve,
        threshold,
        size=_nearest(curve.accuracy, threshold, curve),
        per_draw=[_nearest(draw, threshold, curve) for draw in curve.n_correct / curve.n_val],
        reached=True,
    )
    return Redundancy(delta=delta, strict=False, critical=nearest)


def _smallest(meets: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], curve: Curve) -> int:
    return int(curve.sizes[meets.argmax()]) if meets.any() else curve.width


def _nearest(accuracy: Float64, threshold: float, curve: Curve) -> int:
    return int(curve.sizes[np.abs(accuracy - threshold).argmin()])


def _summary(curve: Curve, threshold: float, *, size: int, per_draw: list[int], reached: bool) -> CriticalSize:
    sizes: Int64 = np.array(per_draw, np.int64)
    return CriticalSize(
        threshold=threshold,
        width=curve.width,
        size=size,
        reached=reached,
        mean=float(sizes.mean()),
        std=float(sizes.std(ddof=min(1, len(sizes) - 1))),
        min=int(sizes.min()),
        max=int(sizes.max()),
    )

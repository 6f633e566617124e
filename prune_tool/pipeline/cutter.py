"""What a reader of a hidden group becomes with fewer neurons, and what that loses, from the moments of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prune_tool import defaults
from prune_tool.pipeline.calibration import Halves, Moments
from prune_tool.pipeline.consumer import Consumer
from prune_tool.pipeline.product import Product
from prune_tool.pipeline.reader import Reader
from prune_tool.records import Allocation, NarrowedWidth, Strategy
from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.cross_fit import cross_fit
from prune_tool.redundancy.joint import JointMoments
from prune_tool.redundancy.layer import ErrorCurve
from prune_tool.redundancy.reconstruction import Reconstruction
from prune_tool.redundancy.scores import ScoreReconstruction
from prune_tool.surgery.groups import HiddenGroup
from prune_tool.surgery.narrowing import Cut, Narrowed, Turned

_ORDER_RIDGE = 1e-3  # regularises the choice of neurons: a copy comes late, unless what else is left varies less
_SCORES_RIDGE = 1e-4  # a head has some 64 dimensions and thousands of rows: nothing to overfit, only ranks to guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to narrow.

    Attributes:
        share: of the network's multiply-accumulates that may be left, above 0 to 1. Missed by little where neurons of
            one width cost differently (a convolution over some of them): how many are kept is settled before which.
        strategy: which neurons are kept.
        allocation: how many are kept where: ``allocated`` by the widths' curves of errors, or ``uniform``.
        fold: whether the neurons that are not kept are folded into the layers that read them.
        round_to: kept widths are multiples of this where they are wide enough.
    """

    share: float
    strategy: Strategy = "pivoted"
    allocation: Allocation = "allocated"
    fold: bool = True
    round_to: int = defaults.ROUND_TO


class LayerCutter:
    """Cuts one layer.

    Args:
        consumer: the layer.
        importance: ``(out,)``, what an error of each of its outputs counts.
        seed: of random choices.
        place: of the layer in its network: each draws its own.
    """

    def __init__(self, consumer: Consumer, importance: Float64, seed: int, place: int) -> None:
        self._consumer, self._seed, self._place = consumer, seed, place
        self._layer = consumer.layer(importance)

    def errors(self, moments: Moments, plan: Plan) -> Float64:
        """``(width + 1,)``, what is lost by how many neurons are kept."""
        return self._judged(moments, plan)[1].absolute

    def cut(self, moments: Moments, plan: Plan, n: int) -> tuple[NarrowedWidth, Cut]:
        """The ``n`` neurons to keep, and what the layer then computes with."""
        order, curve, ridges = self._judged(moments, plan, n)
        kept = np.sort(order)
        problem = Reconstruction(self._layer, _merged(moments[0]), float(ridges[n]))
        made: Narrowed = self._consumer.narrowed(kept, problem.fold(kept) if plan.fold else problem.drop(kept))
        return record_of(self._consumer.group, kept, float(curve.relative[n]), float(curve.absolute[n])), made

    def _judged(self, moments: Moments, plan: Plan, n: int | None = None) -> tuple[Int64, ErrorCurve, Float64]:
        """The first ``n`` neurons to keep (all by default), and by how many are: errors, and the ridge to fold with."""
        (halves,) = moments
        both = Reconstruction(self._layer, _merged(halves), _ORDER_RIDGE)
        order = both.order(plan.strategy, n, seed=self._seed, place=self._place)
        if not plan.fold:
            return order, both.error_curve(order, fold=False), np.full(len(order) + 1, _ORDER_RIDGE)
        fitted = cross_fit(self._layer, halves, order, defaults.FOLD_RIDGES)
        return order, fitted.curve, fitted.ridge


class ScoresCutter:
    """Cuts one product of queries and keys; arguments as for ``LayerCutter``, importance ``(heads,)``."""

    def __init__(self, product: Product, importance: Float64, seed: int, place: int) -> None:
        self._product, self._importance, self._seed, self._place = product, importance, seed, place

    def errors(self, moments: Moments, plan: Plan) -> Float64:
        """``(d + 1,)``, what is lost by how many dimensions of a head are kept."""
        return self._curve(self._problem(moments), plan).absolute

    def cut(self, moments: Moments, plan: Plan, n: int) -> tuple[NarrowedWidth, Cut]:
        """What queries and keys of ``n`` dimensions are computed with."""
        problem = self._problem(moments)
        curve = self._curve(problem, plan)
        maps = problem.maps(n, plan.strategy, fold=plan.fold, seed=self._seed, place=self._place)
        made = Turned(query=_float(maps.query), key=_float(maps.key))
        record = record_of(self._product.group, np.arange(n), float(curve.relative[n]), float(curve.absolute[n]))
        return record, made

    def _problem(self, moments: Moments) -> ScoreReconstruction:
        query, key = (_merged(halves) for halves in moments)
        return ScoreReconstruction(query, key, self._importance, _SCORES_RIDGE)

    def _curve(self, problem: ScoreReconstruction, plan: Plan) -> ErrorCurve:
        return problem.error_curve(plan.strategy, fold=plan.fold, seed=self._seed, place=self._place)


Cutter = LayerCutter | ScoresCutter


def cutter_of(reader: Reader, importance: Float64, seed: int, place: int) -> Cutter:
    """Who cuts a reader; arguments as for ``LayerCutter``."""
    if isinstance(reader, Product):
        return ScoresCutter(reader, importance, seed, place)
    return LayerCutter(reader, importance, seed, place)


def record_of(group: HiddenGroup, kept: Int64, error: float, effect: float) -> NarrowedWidth:
    """What is told of a narrowed width."""
    return NarrowedWidth(
        name=group.name, kind=group.kind, width=group.width, kept=tuple(kept.tolist()), error=error, effect=effect
    )


def _merged(halves: Halves) -> JointMoments:
    return halves[0].merged(halves[1])


def _float(maps: Tensor) -> Tensor:
    return maps.to(torch.float32).contiguous()

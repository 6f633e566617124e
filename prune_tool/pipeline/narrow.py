"""Narrow the hidden widths of a captured network to a share of its multiply-accumulates, without training.

1. A first pass over the calibration images gathers the moments of every hidden width in the original network; a
   backward pass over some of them tells how much an error there matters to what comes out. Together they give each
   width a curve of errors, all in one unit, and the curves give how many neurons are kept where.
2. A lockstep pass walks both networks. Before each layer that reads a hidden width it gathers the moments behind
   everything narrowed so far, chooses the neurons to keep, and folds the others into the layer, with the original's
   output as the target.
3. The graph is rewritten, and must answer what the narrowed half of the lockstep answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from prune_tool import defaults
from prune_tool.deploy.verify import FLOAT32_TOLERANCE
from prune_tool.errors import ModelError, VerificationError
from prune_tool.pipeline.calibration import Sampling, calibration_batches, moments_in_one_pass
from prune_tool.pipeline.consumer import Consumer
from prune_tool.pipeline.importance import importance_of
from prune_tool.pipeline.lockstep import Lockstep
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.records import Allocation, NarrowedWidth, Narrowing, Strategy
from prune_tool.redundancy.allocation import SharedCost, Width, allocate, uniform, unit_of
from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.joint import JointMoments
from prune_tool.redundancy.reconstruction import Reconstruction
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import HiddenGroup, find_groups
from prune_tool.surgery.narrowing import Narrowed, narrow_graph
from prune_tool.surgery.shared_cost import macs_terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to narrow.

    Attributes:
        share: of the network's multiply-accumulates that may be left, above 0 to 1. Missed by little where neurons of
            one width cost differently (a convolution over some of them): how many are kept is settled before which.
        strategy: which neurons are kept.
        allocation: how many are kept where: ``allocated`` by the widths' curves of errors, or ``uniform``.
        fold: whether the neurons that are not kept are folded into the layers that read them.
        seed: of random choices and of the places at which moments are gathered.
        round_to: kept widths are multiples of this where they are wide enough.
    """

    share: float
    strategy: Strategy = "pivoted"
    allocation: Allocation = "allocated"
    fold: bool = True
    seed: int = defaults.SEED
    round_to: int = defaults.ROUND_TO


def narrow(
    captured: fx.GraphModule,
    images: Iterable[NDArray[np.float32]],
    plan: Plan,
    *,
    progress: Progress | None = None,
) -> tuple[Narrowing, fx.GraphModule]:
    """Narrow a captured network.

    Args:
        captured: images (b, 3, h, w) in [0, 1] to neurons, from ``capture``; not changed.
        images: batches of calibration images, (b, 3, h, w) float32 in [0, 1]; labels are not needed. Read only as far
            as ``defaults.CALIBRATION_BYTES`` of activations allow, which is noted.
        plan: how.
        progress: who watches.

    Returns:
        What was kept, and the narrowed network, which takes and returns what ``captured`` does.

    Raises:
        DataError: no images, or activations that are not finite.
        ModelError: the network has no hidden width.
        UsageError: the share cannot be reached.
        VerificationError: the narrowed network does not do what was calibrated.
    """
    progress = progress or Silent()
    captured = narrow_graph(captured, {})  # without what no output reads, which need not be reconstructed
    consumers = [Consumer(captured, group) for group in find_groups(captured)]
    if not consumers:
        raise ModelError(
            asked="narrow the network",
            found="it has no width that one layer reads and nobody else",
            remedy="Cut it by depth, input size and neurons only",
        )
    batches = calibration_batches(captured, images, consumers, progress)
    calibration = _Calibration(captured, batches, consumers, plan, progress)
    n_kept = calibration.counts()
    made, widths, outputs = calibration.walk(n_kept)
    module = narrow_graph(captured, made)
    _check(module, batches[0], outputs)
    record = Narrowing(
        widths=widths,
        n_images=sum(map(len, batches)),
        macs=cost_of(module).macs,
        full_macs=round(calibration.full_cost),
    )
    return record, module


class _Calibration:
    """What the images tell of a network's hidden widths, for one plan."""

    def __init__(
        self,
        captured: fx.GraphModule,
        batches: Sequence[Tensor],
        consumers: Sequence[Consumer],
        plan: Plan,
        progress: Progress,
    ) -> None:
        self.captured = captured
        self.batches = batches
        self.consumers = consumers
        self.plan = plan
        self.progress = progress
        self.full_widths = np.array([consumer.width for consumer in consumers])
        self.cost = SharedCost(terms=macs_terms(captured, [consumer.group for consumer in consumers]))
        self.full_cost = self.cost.of(np.ones(len(consumers)))
        some = torch.cat(list(batches))[: defaults.N_IMPORTANCE]
        with progress.stage("weighing hidden layers"):
            self.importance = importance_of(captured, some, consumers, plan.seed)

    def counts(self) -> Int64:
        """Neurons to keep of each width, ``(n_consumers,)``."""
        target = self.plan.share * self.full_cost
        if self.plan.allocation == "uniform":
            return uniform(
                [self.width(place, np.zeros(w + 1)) for place, w in enumerate(self.full_widths)], self.cost, target
            )
        found = moments_in_one_pass(self.captured, self.batches, self.consumers, self.plan.seed, self.progress)
        widths = []
        for place, moments in enumerate(found):
            problem = self.problem(place, moments)
            curve = problem.error_curve(self.order(place, problem), fold=self.plan.fold)
            widths.append(self.width(place, curve.absolute))
        return allocate(widths, self.cost, target)

    def walk(self, n_kept: Int64) -> tuple[dict[str, Narrowed], tuple[NarrowedWidth, ...], list[Tensor]]:
        """Layer by layer; what to rewrite, what is kept, and what the first batch then gives."""
        walk = Lockstep(self.captured, self.batches)
        sampling = Sampling(n_images=sum(map(len, self.batches)), seed=self.plan.seed)
        made: dict[str, Narrowed] = {}
        widths: list[NarrowedWidth] = []
        with self.progress.stage("narrowing", len(self.consumers)) as advance:
            for place, (consumer, n) in enumerate(zip(self.consumers, n_kept.tolist(), strict=True)):
                if n < consumer.width:
                    moments = sampling.moments(walk.before(consumer.node), consumer, place)
                    width, cut = self.narrowed(place, moments, n)
                    walk.narrow(consumer, cut)
                    made[consumer.group.name] = cut
                    widths.append(width)
                else:
                    widths.append(_record(consumer.group, np.arange(n), 0.0, 0.0))
                advance(1)
        return made, tuple(widths), [twin.narrowed for twin in next(walk.outputs())]

    def narrowed(self, place: int, moments: JointMoments, n: int) -> tuple[NarrowedWidth, Narrowed]:
        """The ``n`` neurons of a width to keep, and what the layer then computes with."""
        problem = self.problem(place, moments)
        order = self.order(place, problem)
        curve = problem.error_curve(order, fold=self.plan.fold)
        kept = np.sort(order[:n])
        consumer = self.consumers[place]
        cut = consumer.narrowed(kept, problem.fold(kept) if self.plan.fold else problem.drop(kept))
        return _record(consumer.group, kept, float(curve.relative[n]), float(curve.absolute[n])), cut

    def problem(self, place: int, moments: JointMoments) -> Reconstruction:
        consumer = self.consumers[place]
        return Reconstruction(
            moments,
            consumer.weight,
            n_groups=consumer.n_groups,
            n_parts=consumer.group.n_parts,
            ridge=defaults.FOLD_RIDGE,
            importance=self.importance[place],
        )

    def order(self, place: int, problem: Reconstruction) -> Int64:
        return problem.order(self.plan.strategy, seed=self.plan.seed, place=place)

    def width(self, place: int, errors: Float64) -> Width:
        group = self.consumers[place].group
        return Width(errors=errors, unit=unit_of(group.width, group.n_parts, self.plan.round_to))


def _record(group: HiddenGroup, kept: Int64, error: float, effect: float) -> NarrowedWidth:
    return NarrowedWidth(
        name=group.name, kind=group.kind, width=group.width, kept=tuple(kept.tolist()), error=error, effect=effect
    )


def _check(module: fx.GraphModule, batch: Tensor, wanted: Sequence[Tensor]) -> None:
    """Require the outputs that the lockstep found."""
    with torch.inference_mode():
        found = module(batch)
    for one, other in zip(found, wanted, strict=True):
        difference = float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
        if not difference <= FLOAT32_TOLERANCE:
            raise VerificationError(
                asked="narrow the network",
                found=f"its outputs differ by {difference:.1e} of the largest from those it was calibrated with",
                remedy="Please report this backbone; leave narrowing out meanwhile",
            )

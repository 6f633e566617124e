"""``inspect``: what cuts of a backbone could save, read off its graph alone: no images, and weights only on demand.

There are two kinds of cut: after a tap, and inside the blocks, where hidden widths can be narrowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import fx

from prune_tool import defaults
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.pipeline.subject import open_subject
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.surgery.analysis import analyse
from prune_tool.surgery.cost import Cost, cost_of
from prune_tool.surgery.groups import HiddenGroup, find_groups
from prune_tool.surgery.narrowing import cost_of_narrowed
from prune_tool.surgery.taps import Tap
from prune_tool.task.backbone import load_backbone, load_structure

KEPT_PERCENT = 20
"""Of a tap's neurons, kept at random to see what a cut is worth: that much of a ResNet-50's penultimate layer serves
CIFAR-10 (Nanda et al. 2023, abstract). Where even this saves nothing, no cut pays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapCost:
    """What the network costs that ends at a tap.

    Attributes:
        name: of the tap.
        width: its neurons.
        whole: cost where all of them are kept.
        n_kept: ``KEPT_PERCENT`` of them, rounded up.
        kept: cost where so many random ones are kept.
        barriers: operators that have no demand rule and stand in the way of that cut: what they read stays whole.
    """

    name: str
    width: int
    whole: Cost
    n_kept: int
    kept: Cost
    barriers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCost:
    """What one hidden width is worth.

    Attributes:
        name, kind, width, n_parts: see ``surgery.groups.HiddenGroup``.
        saved: what keeping half of these neurons (rounded down), and all others, saves of the network's cost.
    """

    name: str
    kind: str
    width: int
    n_parts: int
    saved: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What there is to cut in a backbone.

    Attributes:
        model: name of the architecture.
        input_size: square input in pixels.
        full: cost of the backbone as it is, without classifier.
        taps: in the order of computation; the head is last.
        groups: hidden widths, in the order of computation.
        saved: what halving all of these at once saves.
    """

    model: str
    input_size: int
    full: Cost
    taps: tuple[TapCost, ...]
    groups: tuple[GroupCost, ...]
    saved: Cost


def inspect(
    model: str | None,
    *,
    checkpoint: Path | None = None,
    input_size: int | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Cost every tap of a backbone, whole and cut to a random share of its neurons, and every hidden width, halved.

    Args:
        model: as in ``Request``. Its weights are neither downloaded nor read: costs do not depend on them.
        checkpoint: weights that are read, only to see that they fit.
        input_size: square input in pixels; ``None`` for the model's own.
        progress: who watches.

    Raises:
        ModelError: the model does not exist, does not work at that size, or the weights do not fit.
    """
    progress = progress or Silent()
    with progress.stage("loading the backbone"):
        if checkpoint is None:
            backbone = load_structure(model, input_size=input_size)
        else:
            backbone = load_backbone(model, checkpoint=checkpoint, input_size=input_size)
        subject = open_subject(backbone)
    with progress.stage("capturing its graph"):
        captured = subject.captured
    with progress.stage("cutting at every tap", len(subject.taps)) as advance:
        found = []
        for number, tap in enumerate(subject.taps):
            found.append(_cost_tap(captured, number, tap))
            advance(1)
    with progress.stage("looking for hidden widths"):
        groups = find_groups(captured)
    with progress.stage("halving each", len(groups)) as advance:
        costs = []
        for group in groups:
            costs.append(_cost_group(captured, group))
            advance(1)
    return Inspection(
        model=backbone.name,
        input_size=subject.input_size,
        full=cost_of(captured),
        taps=tuple(found),
        groups=tuple(costs),
        saved=_saved_by_halving(captured, groups),
    )


def _cost_group(captured: fx.GraphModule, group: HiddenGroup) -> GroupCost:
    return GroupCost(
        name=group.name,
        kind=group.kind,
        width=group.width,
        n_parts=group.n_parts,
        saved=_saved_by_halving(captured, [group]),
    )


def _saved_by_halving(captured: fx.GraphModule, groups: Sequence[HiddenGroup]) -> Cost:
    """Against the network that computes what its outputs read, so that nothing else counts as saved."""
    halves = {group.name: group.n_parts * (group.width // group.n_parts // 2) for group in groups}
    return cost_of_narrowed(captured, {}) - cost_of_narrowed(captured, halves)


def _cost_tap(captured: fx.GraphModule, number: int, tap: Tap) -> TapCost:
    n_kept = -(-KEPT_PERCENT * tap.width // 100)
    kept = {number: np.sort(draw_permutations(tap.width, 1, defaults.SEED)[0][:n_kept])}
    return TapCost(
        name=tap.name,
        width=tap.width,
        whole=cost_of(captured, {number: None}),
        n_kept=n_kept,
        kept=cost_of(captured, kept, round_to=defaults.ROUND_TO),
        barriers=tuple(sorted(analyse(captured.graph, kept, round_to=defaults.ROUND_TO).barriers)),
    )

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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from prune_tool import defaults
from prune_tool.deploy.verify import FLOAT32_TOLERANCE
from prune_tool.errors import ModelError, VerificationError
from prune_tool.pipeline.calibration import Moments, Sampling, calibration_batches, moments_in_one_pass
from prune_tool.pipeline.cutter import Cutter, Plan, cutter_of, record_of
from prune_tool.pipeline.importance import importance_of
from prune_tool.pipeline.lockstep import Lockstep
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.pipeline.reach import even_widths, shared_cost
from prune_tool.pipeline.reader import reader_of
from prune_tool.records import NarrowedWidth, Narrowing, Strategy
from prune_tool.redundancy.allocation import allocate, uniform
from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import Cut, narrow_graph


def rebuild(captured: fx.GraphModule, made: Mapping[str, Cut]) -> fx.GraphModule:
    """The narrowed network of an earlier calibration of the same ``captured``."""
    return narrow_graph(narrow_graph(captured, {}), made)


class Narrower:
    """Narrows one captured network, as often as asked; what does not depend on how is found once.

    Args:
        captured: images (b, 3, h, w) in [0, 1] to neurons, from ``capture``; not changed.
        images: batches of calibration images, (b, 3, h, w) float32 in [0, 1]; labels are not needed. Read only as far
            as ``defaults.CALIBRATION_BYTES`` of activations allow, which is noted.
        seed: of random choices and of the places at which moments are gathered.
        progress: who watches.

    Raises:
        DataError: no images, or activations that are not finite.
        ModelError: the network has no hidden width.
    """

    def __init__(
        self,
        captured: fx.GraphModule,
        images: Iterable[NDArray[np.float32]],
        *,
        seed: int = defaults.SEED,
        progress: Progress | None = None,
    ) -> None:
        self._progress = progress or Silent()
        self._seed = seed
        self._captured = narrow_graph(captured, {})  # what no output reads need not be reconstructed
        self._readers = [reader_of(self._captured, group) for group in find_groups(self._captured)]
        if not self._readers:
            raise ModelError(
                asked="narrow the network",
                found="it has no width that one layer reads and nobody else",
                remedy="Cut it by depth, input size and neurons only",
            )
        self._batches = calibration_batches(self._captured, images, self._readers, self._progress)
        self._sampling = Sampling(n_images=sum(map(len, self._batches)), seed=seed)
        self._cost = shared_cost(captured, self._captured, [reader.group for reader in self._readers])
        self._errors: dict[tuple[Strategy, bool], list[Float64]] = {}

    def narrow(self, plan: Plan) -> tuple[Narrowing, fx.GraphModule]:
        """What was kept, and the narrowed network, which takes and returns what the captured one does.

        Raises: see ``calibrate``.
        """
        record, made = self.calibrate(plan)
        return record, narrow_graph(self._captured, made)

    def calibrate(self, plan: Plan) -> tuple[Narrowing, dict[str, Cut]]:
        """What was kept, and by hidden group what its reader then computes with: all that ``rebuild`` needs.

        Raises:
            DataError: activations that are not finite.
            UsageError: the share cannot be reached.
            VerificationError: the narrowed network does not do what was calibrated.
        """
        made, widths, outputs = self._walk(plan, self._counts(plan))
        module = narrow_graph(self._captured, made)
        _check(module, self._batches[0], outputs)
        record = Narrowing(
            widths=widths,
            n_images=self._sampling.n_images,
            macs=cost_of(module).macs,
            full_macs=round(self._cost.whole),
        )
        return record, made

    @cached_property
    def _cutters(self) -> list[Cutter]:
        """Who knows what an error of each reader's outputs counts."""
        some = torch.cat(self._batches)[: defaults.N_IMPORTANCE]
        with self._progress.stage("weighing hidden layers"):
            importance = importance_of(self._captured, some, self._readers, self._seed)
        weighed = enumerate(zip(self._readers, importance, strict=True))
        return [cutter_of(reader, counts, self._seed, place) for place, (reader, counts) in weighed]

    @cached_property
    def _moments(self) -> list[Moments]:
        """Of every width in the original network."""
        return moments_in_one_pass(self._captured, self._batches, self._readers, self._sampling, self._progress)

    def _counts(self, plan: Plan) -> Int64:
        """Neurons to keep of each width, ``(n_readers,)``."""
        even = even_widths([reader.group for reader in self._readers], plan.round_to)
        target = plan.share * self._cost.whole
        if plan.allocation == "uniform":
            return uniform(even, self._cost, target)
        way = plan.strategy, plan.fold
        if way not in self._errors:
            known = zip(self._cutters, self._moments, strict=True)
            self._errors[way] = [cutter.errors(moments, plan) for cutter, moments in known]
        widths = [replace(width, errors=e) for width, e in zip(even, self._errors[way], strict=True)]
        return allocate(widths, self._cost, target)

    def _walk(self, plan: Plan, n_kept: Int64) -> tuple[dict[str, Cut], tuple[NarrowedWidth, ...], list[Tensor]]:
        """Reader by reader; what to rewrite, what is kept, and what the first batch then gives."""
        walk = Lockstep(self._captured, self._batches)
        made: dict[str, Cut] = {}
        widths: list[NarrowedWidth] = []
        with self._progress.stage("narrowing", len(self._readers)) as advance:
            for place, (reader, n) in enumerate(zip(self._readers, n_kept.tolist(), strict=True)):
                if n < reader.group.width:
                    moments = self._sampling.moments(walk.before(reader.node), reader, place)
                    width, cut = self._cutters[place].cut(moments, plan, n)
                    walk.narrow(reader, cut)
                    made[reader.group.name] = cut
                    widths.append(width)
                else:
                    widths.append(record_of(reader.group, np.arange(n), 0.0, 0.0))
                advance(1)
        return made, tuple(widths), [twin.narrowed for twin in next(walk.outputs())]


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

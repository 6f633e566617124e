"""Trunks with narrower hidden widths: calibrated on training images once, remembered, and rebuilt from what is kept.

What is remembered is what each narrowed layer computes with, so that another process, or the export of an analysis of
last week, reads the neurons of exactly that network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.narrow import Narrower, Plan, rebuild
from prune_tool.pipeline.progress import Progress
from prune_tool.pipeline.subject import NarrowForm, Subject
from prune_tool.store.features import FeatureCache
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.narrowing import Narrowed
from prune_tool.task.images import ImageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What statistics are taken from.

    Attributes:
        source: of images.
        rows: (n,) int64, which of them: training images.
        seed: of the places in them.
    """

    source: ImageSource
    rows: NDArray[np.int64]
    seed: int

    @property
    def fingerprint(self) -> str:
        """Changes with the images' contents and order, and with the seed."""
        hashes = self.source.content_hashes()
        return fingerprint(repr(self.seed), *(hashes[row] for row in self.rows))


def narrowed(
    subject: Subject,
    plans: Sequence[Plan],
    calibration: Calibration,
    cache: Callable[[], FeatureCache],
    progress: Progress,
) -> tuple[Subject, ...]:
    """A subject narrowed as planned, in every way; calibrated for all of them when the first graph is asked for.

    Raises, when a graph is asked for:
        CacheError: the cache cannot be written.
        ModelError: the backbone has no hidden width.
        UsageError: a share cannot be reached.
        VerificationError: a narrowed network does not do what was calibrated.
    """
    keys = [fingerprint("narrowing-1", subject.fingerprint, repr(plan), calibration.fingerprint) for plan in plans]

    def calibrate() -> None:
        kept = [cache().narrowing(key) for key in keys]
        if all(file.is_whole() for file in kept):
            return
        images = images_of(calibration.source, calibration.rows, subject.backbone.preprocessing)
        narrower = Narrower(subject.captured, images, seed=calibration.seed, progress=progress)
        for plan, file in zip(plans, kept, strict=True):
            file.ensure(partial(_write, narrower, plan), subject.about)

    def graph_of(key: str) -> Callable[[], fx.GraphModule]:
        def graph() -> fx.GraphModule:
            calibrate()
            return rebuild(subject.captured, _cuts(load_file(cache().narrowing(key).path)))

        return graph

    return tuple(
        replace(subject, narrow_form=NarrowForm(share=plan.share, fingerprint=key, make=graph_of(key)))
        for plan, key in zip(plans, keys, strict=True)
    )


def _write(narrower: Narrower, plan: Plan, path: Path) -> None:
    _, cuts = narrower.calibrate(plan)
    save_file(_flat(cuts), path)


def _flat(cuts: Mapping[str, Narrowed]) -> dict[str, Tensor]:
    flat = {}
    for name, cut in cuts.items():
        flat[f"{name}:kept"] = torch.from_numpy(np.ascontiguousarray(cut.kept))
        flat[f"{name}:weight"], flat[f"{name}:bias"] = cut.weight.contiguous(), cut.bias.contiguous()
    return flat


def _cuts(flat: Mapping[str, Tensor]) -> dict[str, Narrowed]:
    names = dict.fromkeys(key.rpartition(":")[0] for key in flat)
    return {
        name: Narrowed(kept=flat[f"{name}:kept"].numpy(), weight=flat[f"{name}:weight"], bias=flat[f"{name}:bias"])
        for name in names
    }

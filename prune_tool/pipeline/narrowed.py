"""Trunks with narrower hidden widths: calibrated on training images once, remembered, and rebuilt from what is kept.

What is remembered is what each narrowed layer computes with, so that another process, or the export of an analysis of
last week, reads the neurons of exactly that network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.narrow import Plan, narrow, rebuild
from prune_tool.pipeline.progress import Progress
from prune_tool.pipeline.subject import Narrower, Subject
from prune_tool.records import Trunk
from prune_tool.store.features import FeatureCache
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.narrowing import Narrowed
from prune_tool.task.images import ImageSource

Cuts = Mapping[str, Narrowed]
"""By hidden group, what the layer that reads it computes with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Images that statistics are taken from.

    Attributes:
        source: has them.
        rows: (n,) int64, which of it: training images.
    """

    source: ImageSource
    rows: NDArray[np.int64]

    @property
    def fingerprint(self) -> str:
        """Changes with their contents and their order."""
        hashes = self.source.content_hashes()
        return fingerprint(*(hashes[row] for row in self.rows))


def narrowed(
    subject: Subject, plan: Plan, calibration: Calibration, cache: Callable[[], FeatureCache], progress: Progress
) -> Subject:
    """A subject narrowed as planned; calibrated when its graph is first asked for.

    Raises, when its graph is asked for:
        ModelError: the backbone has no hidden width.
        UsageError: the share cannot be reached.
        VerificationError: the narrowed network does not do what was calibrated.
    """
    key = fingerprint("narrowing-1", subject.fingerprint, repr(plan), calibration.fingerprint)

    def make(path: Path) -> None:
        images = images_of(calibration.source, calibration.rows, subject.backbone.preprocessing)
        trunk = Trunk(input_size=subject.input_size, narrow=plan.share)
        with progress.stage(f"narrowing at {trunk}"):
            _, cuts, _ = narrow(subject.captured, images, plan, progress=progress)
            save_file(_flat(cuts), path)

    def graph() -> fx.GraphModule:
        path = cache().narrowing(key).ensure(make, subject.about)
        return rebuild(subject.captured, _cuts(load_file(path)))

    return replace(subject, narrower=Narrower(share=plan.share, fingerprint=key, make=graph))


def _flat(cuts: Cuts) -> dict[str, Tensor]:
    flat = {}
    for name, cut in cuts.items():
        flat[f"{name}:kept"] = torch.from_numpy(np.ascontiguousarray(cut.kept))
        flat[f"{name}:weight"], flat[f"{name}:bias"] = cut.weight.contiguous(), cut.bias.contiguous()
    return flat


def _cuts(flat: Mapping[str, Tensor]) -> Cuts:
    names = dict.fromkeys(key.rpartition(":")[0] for key in flat)
    return {
        name: Narrowed(kept=flat[f"{name}:kept"].numpy(), weight=flat[f"{name}:weight"], bias=flat[f"{name}:bias"])
        for name in names
    }

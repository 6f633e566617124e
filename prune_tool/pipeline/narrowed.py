"""Trunks with narrower hidden widths: calibrated on training images once, remembered, and rebuilt from what is kept.

What is remembered is what each narrowed layer computes with, so that another process, or the export of an analysis of
last week, reads the neurons of exactly that network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from prune_tool import defaults
from prune_tool.pipeline.cutter import Plan
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.heal import heal
from prune_tool.pipeline.narrow import Narrower, rebuild
from prune_tool.pipeline.progress import Progress
from prune_tool.pipeline.reach import reach_of
from prune_tool.pipeline.subject import NarrowForm, Subject
from prune_tool.store.features import FeatureCache
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.narrowing import Cut, Narrowed, Turned
from prune_tool.task.images import ImageSource

HEALED = "healed:"
"""What the names of healed weights begin with in the file, before those of the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What statistics are taken from.

    Attributes:
        source: of images.
        rows: (n,) int64, which of them: training images.
        seed: of the places in them.
        healing: (n,) int64, images that narrowed networks are healed on, without their labels.
        n_epochs: passes over those; 0 for none.
    """

    source: ImageSource
    rows: NDArray[np.int64]
    seed: int
    healing: NDArray[np.int64]
    n_epochs: int

    @property
    def fingerprint(self) -> str:
        """Changes with the images' contents and order, with the seed, and with what heals."""
        hashes = self.source.content_hashes()
        calibrated = fingerprint(repr(self.seed), *(hashes[row] for row in self.rows))
        if not self.n_epochs:
            return calibrated
        how = repr((self.n_epochs, defaults.HEAL_RATE))
        return fingerprint(calibrated, how, *(hashes[row] for row in self.healing))

    def images(self, rows: NDArray[np.int64], subject: Subject) -> Iterable[NDArray[np.float32]]:
        """Batches of the images at some rows, as a subject takes them."""
        return images_of(self.source, rows, subject.backbone.preprocessing)


def reachable(
    subject: Subject, plans: Sequence[Plan], calibration: Calibration, cache: FeatureCache, progress: Progress
) -> list[Plan]:
    """The plans whose shares a subject's hidden widths can reach; of the others there is a note."""
    unknown = [plan for plan in plans if not cache.narrowing(_key(subject, plan, calibration)).is_whole()]
    least = {n: reach_of(subject.captured, n) for n in {plan.round_to for plan in unknown}}
    beyond = [plan for plan in unknown if least[plan.round_to] > plan.share]
    if beyond:
        shares = " or ".join(f"{100 * plan.share:g} %" for plan in beyond)
        left = 100 * min(least.values())
        progress.note(
            f"not narrowing {subject.trunk} to {shares} of the MACs: its hidden widths leave {left:.0f} % at least"
        )
    return [plan for plan in plans if plan not in beyond]


def narrowed(
    subject: Subject,
    plans: Sequence[Plan],
    calibration: Calibration,
    cache: Callable[[], FeatureCache],
    progress: Progress,
) -> tuple[Subject, ...]:
    """A subject narrowed as planned, in every way; calibrated for all of them when the first graph is asked for.

    Args:
        subject: to narrow.
        plans: how.
        calibration: on what.
        cache: where the outcome is kept.
        progress: who watches.

    Raises, when a graph is asked for:
        CacheError: the cache cannot be written.
        ModelError: the backbone has no hidden width.
        UsageError: a share cannot be reached.
        VerificationError: a narrowed network does not do what was calibrated.
    """
    keys = [_key(subject, plan, calibration) for plan in plans]

    def calibrate() -> None:
        kept = [cache().narrowing(key) for key in keys]
        if all(file.is_whole() for file in kept):
            return
        images = calibration.images(calibration.rows, subject)
        narrower = Narrower(subject.captured, images, seed=calibration.seed, progress=progress)
        healed = partial(_healed, subject, calibration, progress)
        for plan, file in zip(plans, kept, strict=True):
            file.ensure(partial(_write, narrower, plan, healed), subject.about)

    def graph_of(key: str) -> Callable[[], fx.GraphModule]:
        def graph() -> fx.GraphModule:
            calibrate()
            flat = load_file(cache().narrowing(key).path)
            module = rebuild(subject.captured, _cuts(flat))
            for name, weight in flat.items():
                if name.startswith(HEALED):
                    module.get_parameter(name.removeprefix(HEALED)).data.copy_(weight)
            return module

        return graph

    return tuple(
        replace(subject, narrow_form=NarrowForm(share=plan.share, fingerprint=key, make=graph_of(key)))
        for plan, key in zip(plans, keys, strict=True)
    )


def _healed(
    subject: Subject, calibration: Calibration, progress: Progress, cuts: Mapping[str, Cut]
) -> dict[str, Tensor]:
    """Weights of the narrowed network after healing; none where that was not asked for."""
    if not calibration.n_epochs:
        return {}
    found = heal(
        subject.captured,
        rebuild(subject.captured, cuts),
        partial(calibration.images, subject=subject),
        calibration.healing,
        n_epochs=calibration.n_epochs,
        seed=calibration.seed,
        progress=progress,
    )
    progress.note(f"healed: {found.before:.3f} of the neurons' variance was lost, {found.after:.3f} is now")
    return found.weights


def _key(subject: Subject, plan: Plan, calibration: Calibration) -> str:
    """Changes with the whole network, with how it is narrowed, and on what."""
    return fingerprint("narrowing-3", subject.fingerprint, repr(plan), calibration.fingerprint)


def _write(
    narrower: Narrower, plan: Plan, healed: Callable[[Mapping[str, Cut]], dict[str, Tensor]], path: Path
) -> None:
    _, cuts = narrower.calibrate(plan)
    save_file(_flat(cuts) | {f"{HEALED}{name}": weight.contiguous() for name, weight in healed(cuts).items()}, path)


def _flat(cuts: Mapping[str, Cut]) -> dict[str, Tensor]:
    flat = {}
    for name, cut in cuts.items():
        if isinstance(cut, Turned):
            flat[f"{name}:query"], flat[f"{name}:key"] = cut.query.contiguous(), cut.key.contiguous()
            continue
        flat[f"{name}:kept"] = torch.from_numpy(np.ascontiguousarray(cut.kept))
        flat[f"{name}:weight"], flat[f"{name}:bias"] = cut.weight.contiguous(), cut.bias.contiguous()
    return flat


def _cuts(flat: Mapping[str, Tensor]) -> dict[str, Cut]:
    parts: dict[str, dict[str, Tensor]] = {}
    for path, tensor in flat.items():
        if not path.startswith(HEALED):
            name, _, part = path.rpartition(":")
            parts.setdefault(name, {})[part] = tensor
    return {
        name: Turned(query=of["query"], key=of["key"])
        if "query" in of
        else Narrowed(kept=of["kept"].numpy(), weight=of["weight"], bias=of["bias"])
        for name, of in parts.items()
    }

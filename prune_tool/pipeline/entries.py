"""Which cache entries a task's features lie in: by backbone, by images, and by what rounds the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.pipeline.engines import ray as ray_engine
from prune_tool.pipeline.engines.choose import choose_runtime
from prune_tool.pipeline.engines.network import RuntimeName
from prune_tool.pipeline.engines.runners import AMP_DTYPE
from prune_tool.pipeline.subject import Subject
from prune_tool.pipeline.workspace import Workspace
from prune_tool.store.features import FeatureEntry
from prune_tool.store.fingerprint import fingerprint


def open_entries(workspace: Workspace, subjects: Sequence[Subject], indices: NDArray[np.int64]) -> list[FeatureEntry]:
    """One entry a subject, filled or not; row i of each is image ``indices[i]`` (n,) of the source."""
    hashes = workspace.source.content_hashes()
    images = tuple(hashes[i] for i in indices)
    return [
        workspace.cache.entry(
            fingerprint(subject.trunk_fingerprint, f"{runtime} {AMP_DTYPE}" if workspace.request.amp else runtime),
            images,
            [tap.name for tap in subject.taps],
            shard_size=defaults.SHARD_SIZE,
            about=replace(subject.about, data=workspace.source.name, n_images=len(images)),
        )
        for subject, runtime in zip(subjects, runtimes_of(workspace, subjects, indices), strict=True)
    ]


def runtimes_of(workspace: Workspace, subjects: Sequence[Subject], indices: NDArray[np.int64]) -> list[RuntimeName]:
    """What computes each subject's features. It rounds in its own way, so it is part of their key."""
    device = device_of(workspace)

    def chosen(subject: Subject) -> RuntimeName:
        return workspace.once(
            f"runtime of {subject.fingerprint}", lambda: choose_runtime(workspace, subject, device, indices)
        )

    return [chosen(subject) for subject in subjects]


def device_of(workspace: Workspace) -> str:
    """Where features are computed: ``cpu``, ``cuda`` or ``cuda:N``."""
    request = workspace.request
    return ray_engine.device_of_cluster() if request.engine == "ray" else request.device

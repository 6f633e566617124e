"""Which cache entries a task's features lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.pipeline.workspace import Subject, Workspace
from prune_tool.store.features import FeatureEntry


def open_entries(workspace: Workspace, subjects: Sequence[Subject], indices: NDArray[np.int64]) -> list[FeatureEntry]:
    """One entry a subject, filled or not; row i of each is image ``indices[i]`` (n,) of the source."""
    hashes = workspace.source.content_hashes()
    images = tuple(hashes[i] for i in indices)
    return [
        workspace.cache.entry(
            subject.trunk_fingerprint,
            images,
            [tap.name for tap in subject.taps],
            shard_size=defaults.SHARD_SIZE,
            about=replace(subject.about, data=workspace.source.name, n_images=len(images)),
        )
        for subject in subjects
    ]

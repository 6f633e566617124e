"""Neurons of the images that choose, by input size and tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.workspace import Subject, Workspace
from prune_tool.records import Metric
from prune_tool.redundancy.checks import Features as AnyFeatures
from prune_tool.redundancy.held_out import HeldOut

Indices = NDArray[np.int64]
Features = Callable[[int, str], NDArray[np.float32]]
"""Input size, tap -> (n, width) neurons of some fixed images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitData:
    """Neurons and labels of the images that choose: training and validation, never test.

    Attributes:
        features: of the n training and validation images.
        labels: (n,) int64.
        train, val: row numbers.
        n_classes: of the task.
        metric: how correct predictions are counted.
    """

    features: Features
    labels: Indices
    train: Indices
    val: Indices
    n_classes: int
    metric: Metric = "accuracy"

    def judged(self, val: AnyFeatures) -> HeldOut:
        """The validation images, seen through the features ``val (n_val, d)``."""
        return HeldOut(val, self.labels[self.val], self.metric)

    def at(self, input_size: int) -> Callable[[str], NDArray[np.float32]]:
        """Features of one input size, by tap."""
        return partial(self.features, input_size)


def fit_data(workspace: Workspace) -> FitData:
    """Extract (or find in the cache) what the choice is made on, at every input size."""
    return workspace.once("fit data", lambda: _fit_data(workspace))


def _fit_data(workspace: Workspace) -> FitData:
    splits = workspace.splits
    indices = np.union1d(splits.train, splits.val)
    return FitData(
        features=features_of(workspace, workspace.subjects, indices),
        labels=workspace.source.labels[indices],
        train=np.searchsorted(indices, splits.train),
        val=np.searchsorted(indices, splits.val),
        n_classes=len(workspace.source.classes),
        metric=workspace.request.metric,
    )


def features_of(workspace: Workspace, subjects: Sequence[Subject], indices: Indices) -> Features:
    """Extract (or find in the cache) the images at ``indices``; an input size is read when it is first asked for."""
    entries = extract(workspace, subjects, indices)
    entry = {subject.input_size: entry for subject, entry in zip(subjects, entries, strict=True)}

    @cache
    def at(input_size: int) -> dict[str, NDArray[np.float32]]:
        return entry[input_size].read([tap.name for tap in workspace.subject(input_size).taps])

    return lambda input_size, tap: at(input_size)[tap]

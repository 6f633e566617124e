"""Logistic probes on subsets of readings: from a reading and a size to a candidate that could ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.measure import Indices, Subset, columns, kept_outputs, random_subset
from prune_tool.pipeline.workspace import Subject, Workspace
from prune_tool.records import Candidate, Reading
from prune_tool.redundancy.logistic import LogisticProbe, choose_logistic
from prune_tool.surgery.cost import cost_of

ROUND_TO = 8
"""Kept widths are rounded up to a multiple of this: vector units and tensor cores work in eights."""


Features = Callable[[int, str], NDArray[np.float32]]
"""Input size, tap -> (n, width) neurons of some fixed images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitData:
    """Neurons and labels of the images that choose: training and validation, never test.

    Attributes:
        features: of the n training and validation images.
        labels: (n,) int64.
        train, val: row numbers.
    """

    features: Features
    labels: Indices
    train: Indices
    val: Indices

    def at(self, input_size: int) -> Callable[[str], NDArray[np.float32]]:
        """Features of one input size, by tap."""
        return partial(self.features, input_size)


def fit_data(workspace: Workspace) -> FitData:
    """Extract (or find in the cache) what the choice is made on, at every input size."""
    splits = workspace.splits
    indices = np.union1d(splits.train, splits.val)
    return FitData(
        features=features_of(workspace, workspace.subjects, indices),
        labels=workspace.source.labels[indices],
        train=np.searchsorted(indices, splits.train),
        val=np.searchsorted(indices, splits.val),
    )


def features_of(workspace: Workspace, subjects: Sequence[Subject], indices: Indices) -> Features:
    """Extract (or find in the cache) the images at ``indices``; an input size is read when it is first asked for."""
    entries = extract(workspace, subjects, indices)
    entry = {subject.input_size: entry for subject, entry in zip(subjects, entries, strict=True)}

    @cache
    def at(input_size: int) -> dict[str, NDArray[np.float32]]:
        return entry[input_size].read([tap.name for tap in workspace.subject(input_size).taps])

    return lambda input_size, tap: at(input_size)[tap]


def fit_probe(
    data: FitData, input_size: int, subset: Subset, n_classes: int, strengths: Sequence[float] = defaults.LOGISTIC_GRID
) -> LogisticProbe:
    """The converged logistic probe of a subset, its strength chosen on the validation images."""
    found = columns(data.at(input_size), subset)
    train, val = data.train, data.val
    return choose_logistic(found[train], data.labels[train], found[val], data.labels[val], n_classes, strengths)


def probe_candidate(
    workspace: Workspace,
    data: FitData,
    number: int,
    reading: Reading,
    n_neurons: int,
    strengths: Sequence[float] = defaults.LOGISTIC_GRID,
) -> Candidate:
    """Fit and cost the random subset of ``n_neurons`` of a reading (``number`` is its place in the analysis)."""
    subject = workspace.subject(reading.input_size)
    subset = random_subset(reading, subject, n_neurons, workspace.request.seed)
    n_classes = len(workspace.source.classes)
    probe = fit_probe(data, reading.input_size, subset, n_classes, strengths)
    found = columns(data.at(reading.input_size), subset)[data.val]
    cost = cost_of(subject.captured, kept_outputs(subset, subject), round_to=ROUND_TO)
    n_probe = n_classes * n_neurons
    return Candidate(
        reading=number,
        n_neurons=n_neurons,
        macs=cost.macs + n_probe,
        n_params=cost.n_params + n_probe + n_classes,
        val=probe.score(found, data.labels[data.val]),
        strength=probe.strength,
    )

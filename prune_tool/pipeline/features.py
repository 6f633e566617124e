"""Neurons of the images that choose, by trunk and tap, in bounded memory whatever the number of images.

Features stay on disk and are read as they are asked for, each time with the taps and rows asked for only. Taps that fit
are kept, the most recently used ones, up to ``defaults.FEATURE_BYTES``. Moments sum all training images block by block.
What has to be in memory at once is bounded by a seeded, stratified choice of images, the same for every fit of a run,
the full backbone's included: logistic probes are fitted on as many training images as ``defaults.FIT_BYTES`` holds at
the widest layer, and compared on at most ``defaults.MAX_VAL`` validation images. Smaller tasks use all of theirs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.errors import CacheError
from prune_tool.pipeline.entries import open_entries
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.subject import Subject
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Metric, Trunk
from prune_tool.redundancy.checks import Features as AnyFeatures
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.store.features import FeatureEntry, FeaturesLostError
from prune_tool.task.splits import stratified

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]

N_REPAIRS = 3
"""Times in a row that lost features are computed again before the disk is given up."""


class Features:
    """Neurons of some fixed images in some trunks, complete in the cache when this is made."""

    def __init__(self, workspace: Workspace, subjects: Sequence[Subject], indices: Indices) -> None:
        self._workspace, self._indices = workspace, indices
        self._subjects = {subject.trunk: subject for subject in subjects}
        self._entries = dict(zip(self._subjects, _extracted(workspace, subjects, indices), strict=True))
        self._kept: OrderedDict[tuple[Trunk, str], Floats] = OrderedDict()

    def columns(self, trunk: Trunk, subset: Mapping[str, Indices], rows: Indices) -> Floats:
        """Features (n, k) of a subset (neurons by tap), taps in order: what the sliced network would put out.

        Args:
            trunk: what computed them.
            subset: per tap, the neurons (k_tap,) to take.
            rows: (n,) row numbers, in any order.

        Raises:
            CacheError: the cache cannot be read, or what is damaged there cannot be computed again.
        """
        found = np.empty((len(rows), sum(map(len, subset.values()))), np.float32)
        for start in range(0, len(rows), defaults.FEATURE_BLOCK):
            block = rows[start : start + defaults.FEATURE_BLOCK]
            arrays, done = self._arrays(trunk, subset, block), 0
            for tap, neurons in subset.items():
                found[start : start + len(block), done : done + len(neurons)] = arrays[tap][:, neurons]
                done += len(neurons)
        return found

    def blocks(self, trunk: Trunk, subset: Mapping[str, Indices], rows: Indices) -> Iterator[tuple[Indices, Floats]]:
        """``columns`` for a bounded number of rows at a time: row numbers (b,) and their features (b, k), in order."""
        for start in range(0, len(rows), defaults.FEATURE_BLOCK):
            block = rows[start : start + defaults.FEATURE_BLOCK]
            yield block, self.columns(trunk, subset, block)

    def _arrays(self, trunk: Trunk, taps: Collection[str], rows: Indices) -> dict[str, Floats]:
        """By tap, (n, width) at ``rows``: from memory where the tap is kept or can be, else from disk."""
        width = {tap.name: tap.width for tap in self._subjects[trunk].taps}
        most = defaults.FEATURE_BYTES // max(defaults.POOL_DEPTH, len(taps))  # so that a pool's are kept side by side
        keep = [tap for tap in taps if 4 * len(self._indices) * width[tap] <= most]
        for tap in keep:
            if (trunk, tap) in self._kept:
                self._kept.move_to_end((trunk, tap))
        if absent := [tap for tap in keep if (trunk, tap) not in self._kept]:
            self._make_room(sum(4 * len(self._indices) * width[tap] for tap in absent))
            self._kept |= {(trunk, tap): array for tap, array in self._read(trunk, absent, None).items()}
        found = {tap: self._kept[trunk, tap][rows] for tap in keep}
        rest = [tap for tap in taps if tap not in found]
        return found | (self._read(trunk, rest, rows) if rest else {})

    def _make_room(self, n_bytes: int) -> None:
        """Let go of what was not used for longest, until ``n_bytes`` more may be kept."""
        while sum(array.nbytes for array in self._kept.values()) + n_bytes > defaults.FEATURE_BYTES:
            self._kept.popitem(last=False)

    def _read(self, trunk: Trunk, taps: Collection[str], rows: Indices | None) -> dict[str, Floats]:
        """From disk. What was damaged or has gone is computed again on the spot."""
        for _ in range(N_REPAIRS):
            try:
                return self._entries[trunk].read(taps, rows)
            except FeaturesLostError as error:
                self._workspace.progress.note(f"{error.found}: computing it again")
                extract(self._workspace, [self._subjects[trunk]], self._indices)
        return self._entries[trunk].read(taps, rows)


def _extracted(workspace: Workspace, subjects: Sequence[Subject], indices: Indices) -> list[FeatureEntry]:
    """``extract``; an interrupt leaves with a note of what is kept."""
    try:
        return extract(workspace, subjects, indices)
    except KeyboardInterrupt as interrupt:
        with suppress(CacheError):
            for subject, entry in zip(subjects, open_entries(workspace, subjects, indices), strict=True):
                n_kept = entry.n_images - sum(len(entry.rows(shard)) for shard in entry.missing())
                n_all = f"{entry.n_images:,} images at {subject.trunk}"
                interrupt.add_note(f"Features of {n_kept:,} of {n_all} are kept")
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn of cross-validation: rows that probes are fitted on, and the others, which judge them."""

    fit: Indices
    val: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class FitData:
    """Neurons and labels of the images that choose: training and validation, never test.

    Attributes:
        features: of the n training and validation images.
        labels: (n,) int64.
        train, val: row numbers, ascending.
        fit: of ``train``, the rows that logistic probes are fitted on.
        turns: further turns, in which training rows judge; none where ``val`` is enough, or memory is short.
        n_classes: of the task.
        metric: how correct predictions are counted.
    """

    features: Features
    labels: Indices
    train: Indices
    fit: Indices
    val: Indices
    turns: tuple[Turn, ...]
    n_classes: int
    metric: Metric = "accuracy"

    def judged(self, val: AnyFeatures, rows: Indices | None = None) -> HeldOut:
        """Images that judge, by default the validation images, seen through their features ``val (n, d)``."""
        return HeldOut(val, self.labels[self.val if rows is None else rows], self.metric)


def fit_data(workspace: Workspace) -> FitData:
    """Extract (or find in the cache) what the choice is made on, in every trunk."""
    return workspace.once("fit data", lambda: _fit_data(workspace))


def _fit_data(workspace: Workspace) -> FitData:
    splits, labels, seed = workspace.splits, workspace.source.labels, workspace.request.seed
    widest = max(tap.width for subject in workspace.subjects for tap in subject.taps)
    n_fit = defaults.FIT_BYTES // (8 * max(widest, defaults.MAX_POOL))
    val, fit = stratified(splits.val, labels, defaults.MAX_VAL, seed), stratified(splits.train, labels, n_fit, seed)
    for what, used, given in (("fitted", fit, splits.train), ("compared", val, splits.val)):
        if len(used) < len(given):
            workspace.progress.note(f"logistic probes are {what} on {len(used):,} of {len(given):,} images")
    indices = np.union1d(splits.train, val)
    is_whole = len(val) == len(splits.val) and len(fit) == len(splits.train)
    return FitData(
        features=Features(workspace, workspace.subjects, indices),
        labels=labels[indices],
        train=np.searchsorted(indices, splits.train),
        fit=np.searchsorted(indices, fit),
        val=np.searchsorted(indices, val),
        turns=tuple(_turns(workspace, indices)) if is_whole else (),
        n_classes=len(workspace.source.classes),
        metric=workspace.request.metric,
    )


def _turns(workspace: Workspace, indices: Indices) -> Iterator[Turn]:
    """The splits' folds as rows of ``indices``. Images that narrowed trunks were made on judge nobody."""
    for fold in workspace.splits.folds:
        judging = np.setdiff1d(fold, workspace.calibrated)
        if len(judging):
            fit, val = np.setdiff1d(indices, fold), judging
            yield Turn(fit=np.searchsorted(indices, fit), val=np.searchsorted(indices, val))

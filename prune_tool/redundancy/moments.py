"""Learn the moments of features batch by batch, then freeze them: all that ridge probes read of the training images.

Moments add up over shards, so they can be gathered batch by batch, process by process, machine by machine. Sums are
kept about the running mean and merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances" (1979), so that means much larger than the spread do not cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy.checks import Features, Float64, Int64, check_features, check_labels

_ROWS_PER_BLOCK = 4096  # images summed at once: large enough for a fast product, small enough for little memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Moments of standardised features ``X (n, d)`` and one-hot targets ``Y (n, c)``; float64, read-only arrays.

    Attributes:
        n_images: ``n``, training images summed.
        mean: ``(d,)``, mean of each neuron.
        scale: ``(d,)``, standard deviation of each neuron (divisor ``n``); 1 where the neuron is constant.
        gram: ``(d, d)``, ``X'X``. The diagonal is ``n``, or 0 where the neuron is constant.
        cross: ``(d, c)``, ``X'(Y - prior)``.
        prior: ``(c,)``, share of each class, the mean of ``Y``.
    """

    n_images: int
    mean: Float64
    scale: Float64
    gram: Float64
    cross: Float64
    prior: Float64

    def __post_init__(self) -> None:
        for array in (self.mean, self.scale, self.gram, self.cross, self.prior):
            array.setflags(write=False)

    @property
    def width(self) -> int:
        """``d``, number of neurons."""
        return len(self.mean)

    @property
    def n_classes(self) -> int:
        """``c``, number of classes."""
        return len(self.prior)

    def select(self, neurons: Int64) -> Moments:
        """Moments of ``neurons (k,)`` alone, in the order given: the same as if no other had been summed."""
        return Moments(
            n_images=self.n_images,
            mean=self.mean[neurons],
            scale=self.scale[neurons],
            gram=self.gram[np.ix_(neurons, neurons)],
            cross=self.cross[neurons],
            prior=self.prior,
        )

    def standardise(self, features: Features) -> Float64:
        """Features ``(m, d)`` of any images in the coordinates of ``gram``: ``(features - mean) / scale``.

        The result is float64, image by image in memory whatever the order given.

        Raises:
            DataError: the features are not finite or of another width.
        """
        check_features(features, self.width)
        centred = np.subtract(features, self.mean, order="C")
        centred /= self.scale
        return centred


class MomentsAccumulator:
    """Gathers the moments of ``n_features`` neurons and ``n_classes`` classes; ``freeze`` hands them on."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        self._sums = _Sums(
            class_counts=np.zeros(n_classes, np.int64),
            mean=np.zeros(n_features),
            scatter=np.zeros((n_features, n_features)),
            class_sums=np.zeros((n_classes, n_features)),
        )

    def update(self, features: Features, labels: Int64) -> None:
        """Add images: ``features (n, d)`` float32 or float64, ``labels (n,)`` integers.

        Raises:
            DataError: wrong shapes, a label out of range, or a feature that is not finite. Nothing has been added then.
        """
        n_classes, n_features = self._sums.class_sums.shape
        check_features(features, n_features)
        check_labels(labels, len(features), n_classes)
        for start in range(0, len(features), _ROWS_PER_BLOCK):
            rows = slice(start, start + _ROWS_PER_BLOCK)
            self._sums = _merged(self._sums, _summed(features[rows], labels[rows], n_classes))

    def merge(self, other: MomentsAccumulator) -> None:
        """Add all that ``other`` has gathered, as if this one had seen its images; ``other`` stays as it is.

        Raises:
            UsageError: ``other`` gathers another number of neurons or classes.
        """
        mine, theirs = self._sums.class_sums.shape, other._sums.class_sums.shape
        if mine != theirs:
            raise UsageError(
                asked=f"merge moments of {mine[1]} neurons, {mine[0]} classes",
                found=f"moments of {theirs[1]} neurons, {theirs[0]} classes",
                remedy="Merge shards of one tap and one task only",
            )
        self._sums = _merged(self._sums, other._sums)

    def freeze(self) -> Moments:
        """The moments of everything added so far. More may be added afterwards; what was handed out stays.

        Raises:
            DataError: no image has been added.
        """
        sums, n_images = self._sums, self._sums.n_images
        if n_images == 0:
            raise DataError(asked="moments of features", found="no images", remedy="Add at least one labelled image")
        spread = np.sqrt(sums.scatter.diagonal() / n_images)
        # Below float64's resolution at the mean, a spread is rounding and not signal.
        scale = np.where(spread <= np.finfo(np.float64).eps * np.abs(sums.mean), 1.0, spread)
        return Moments(
            n_images=n_images,
            mean=sums.mean,
            scale=scale,
            gram=sums.scatter / np.outer(scale, scale),
            cross=np.ascontiguousarray((sums.class_sums / scale).T),
            prior=sums.class_counts / n_images,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sums:
    """``class_counts (c,)``, ``mean (d,)``, and about it the ``scatter (d, d)`` and the ``class_sums (c, d)``."""

    class_counts: Int64
    mean: Float64
    scatter: Float64
    class_sums: Float64

    @property
    def n_images(self) -> int:
        return int(self.class_counts.sum())


def _summed(features: Features, labels: Int64, n_classes: int) -> _Sums:
    """Sums of one block. Shifting by the first image makes a constant neuron's deviations exactly zero."""
    first = features[0].astype(np.float64)
    deviations = features - first
    shift = deviations.mean(axis=0)
    deviations -= shift
    targets = np.eye(n_classes)[labels]
    return _Sums(
        class_counts=np.bincount(labels, minlength=n_classes),
        mean=first + shift,
        scatter=deviations.T @ deviations,
        class_sums=targets.T @ deviations,
    )


def _merged(a: _Sums, b: _Sums) -> _Sums:
    """Sums of both, about their common mean (Chan et al., the pairwise formula, for vectors)."""
    if a.n_images == 0:
        return b
    if b.n_images == 0:
        return a
    n_images = a.n_images + b.n_images
    delta = b.mean - a.mean
    to_a, to_b = delta * (b.n_images / n_images), delta * (a.n_images / n_images)
    return _Sums(
        class_counts=a.class_counts + b.class_counts,
        mean=a.mean + to_a,
        scatter=a.scatter + b.scatter + (a.n_images * b.n_images / n_images) * np.outer(delta, delta),
        class_sums=a.class_sums - np.outer(a.class_counts, to_a) + b.class_sums + np.outer(b.class_counts, to_b),
    )

"""Who pays: the classes one by one, and which are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prune_tool.pipeline.predictions import Predictions, confusion
from prune_tool.redundancy.fairness import ClassScores, Fairness

MOST_IN_MATRIX = 12
"""Classes whose confusion fits on a page as a table with numbers; of more, the pairs confused most are listed."""

N_PAIRS = 15
"""Pairs of classes listed."""

N_OPEN = 20
"""Classes listed at once, those that lose most; the others are folded away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Confusion of one network.

    Attributes:
        title: whose.
        rows: for each true class, its name, and for each predicted class the count and the share of the row.
    """

    title: str
    rows: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A class taken for another, and how often by each network."""

    label: str
    predicted: str
    n_full: int
    n_kept: int


def by_drop(fairness: Fairness) -> tuple[ClassScores, ...]:
    """Classes, those first that lose most points."""
    return tuple(sorted(fairness.classes, key=lambda scores: (-scores.drop_points, scores.label)))


def matrices(predictions: Predictions, classes: Sequence[str]) -> tuple[Matrix, ...]:
    """Confusion of the full backbone and of the shipped file; none where there are too many classes."""
    if len(classes) > MOST_IN_MATRIX:
        return ()
    made = []
    for title, predicted in (("Full backbone", predictions.full), ("Shipped file", predictions.kept)):
        counts = confusion(predictions.labels, predicted, len(classes))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        cells = (tuple(zip(c, s, strict=True)) for c, s in zip(counts.tolist(), shares.tolist(), strict=True))
        made.append(Matrix(title=title, rows=tuple(zip(classes, cells, strict=True))))
    return tuple(made)


def worst_pairs(predictions: Predictions, classes: Sequence[str]) -> tuple[Pair, ...]:
    """Which classes the shipped file takes for which, most often first, ties by label."""
    full, kept = (confusion(predictions.labels, p, len(classes)) for p in (predictions.full, predictions.kept))
    np.fill_diagonal(kept, 0)
    order = np.argsort(-kept, axis=None, kind="stable")[:N_PAIRS]
    places = ((int(i), int(j)) for i, j in zip(*np.unravel_index(order, kept.shape), strict=True))
    return tuple(
        Pair(label=classes[i], predicted=classes[j], n_full=int(full[i, j]), n_kept=int(kept[i, j]))
        for i, j in places
        if kept[i, j]
    )

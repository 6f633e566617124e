"""Who pays for the neurons that went: accuracy class by class, the worst drop, and how unequal the classes are.

A subset that keeps 95 % of the accuracy may lose most of one class. Nanda et al. (NeurIPS 2023) warn of it and measure
it by the Gini coefficient of class accuracies, for the whole layer and for the subset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_tool.errors import DataError, UsageError
from prune_tool.records import Score
from prune_tool.redundancy.checks import Float64, Int64, check_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """One class, judged on the same images by both.

    Attributes:
        label: the class, from 0.
        full: correct predictions of the full backbone on this class' images, of which there is at least one.
        kept: correct predictions of the pruned one.
    """

    label: int
    full: Score
    kept: Score

    @property
    def drop_points(self) -> float:
        """Accuracy lost, in percentage points; negative where the pruned backbone is better."""
        return 100 * (self.full.n_correct - self.kept.n_correct) / self.full.n_images


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """Both backbones, class by class.

    Attributes:
        classes: scores of every class that has images, by label. At least one.
        absent: labels of the classes without images. Nothing is known of them and nothing below counts them.
    """

    classes: tuple[ClassScores, ...]
    absent: tuple[int, ...]

    @property
    def worst(self) -> ClassScores:
        """The class that loses most points, the lowest label among equals.

        The worst of many classes with few images each is mostly chance: read it beside its number of images.
        """
        return max(self.classes, key=lambda scores: scores.drop_points)

    @property
    def full_gini(self) -> float:
        """Gini coefficient of the full backbone's class accuracies, each class counting once."""
        return gini(np.array([scores.full.accuracy for scores in self.classes]))

    @property
    def kept_gini(self) -> float:
        """Gini coefficient of the pruned backbone's class accuracies, each class counting once."""
        return gini(np.array([scores.kept.accuracy for scores in self.classes]))


def compare_classes(labels: Int64, full: Int64, kept: Int64, n_classes: int) -> Fairness:
    """Count correct predictions class by class.

    Args:
        labels: ``(n,)`` int64, true classes of the images.
        full: ``(n,)`` int64, classes that the full backbone predicts for them.
        kept: ``(n,)`` int64, classes that the pruned one predicts.
        n_classes: classes of the task.

    Raises:
        DataError: no images, another length, or a class out of range.
    """
    for classes in (labels, full, kept):
        check_labels(classes, len(labels), n_classes)
    if len(labels) == 0:
        raise DataError(asked="accuracy of each class", found="no images", remedy="Pass at least one labelled image")
    n_images, n_full, n_kept = (
        np.bincount(rows, minlength=n_classes).tolist()
        for rows in (labels, labels[full == labels], labels[kept == labels])
    )
    return Fairness(
        classes=tuple(
            ClassScores(
                label=label,
                full=Score(n_correct=n_full[label], n_images=n),
                kept=Score(n_correct=n_kept[label], n_images=n),
            )
            for label, n in enumerate(n_images)
            if n
        ),
        absent=tuple(label for label, n in enumerate(n_images) if not n),
    )


def gini(values: Float64) -> float:
    """Gini coefficient of ``values (c,)``: their mean absolute difference over twice their mean.

    ``sum_ij |v_i - v_j| / (2 c^2 mean)``, pairs of a value with itself included (Gini, "Variabilità e mutabilità",
    1912; Sen, "On Economic Inequality", 1973): 0 where all are equal, all 0 among them, and ``(c - 1) / c`` where one
    has everything. Adding the same to all lowers it, so a smaller value may just mean a higher accuracy.

    Raises:
        UsageError: no values, or one that is negative or not finite.
    """
    ascending = np.sort(values)
    n = len(ascending)
    if not (n and np.isfinite(ascending).all() and ascending[0] >= 0):
        raise UsageError(
            asked=f"the Gini coefficient of {n} values",
            found="none, or one that is negative or not finite",
            remedy="Pass accuracies from 0 to 1",
        )
    total = ascending.sum()
    if total == 0:
        return 0.0
    # The gap above the lowest i values lies between i (n - i) pairs. Summing gaps, equal values give exactly 0.
    below = np.arange(1, n)
    return float((np.diff(ascending) * below * (n - below)).sum() / (n * total))

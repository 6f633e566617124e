"""Images that judge a probe: their features, their labels, and what a correct prediction of each is worth.

Under ``balanced-accuracy`` every class counts alike, however many images it has: the mean over classes of the share of
its images that are classified correctly. A probe that is fitted to frequent and rare classes as they come is not the
best one by that measure; dividing its class probabilities by the classes' shares makes it so without fitting anything
anew (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 4.1). Whatever is judged by balanced
accuracy is corrected so first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_tool.records import Metric, Score
from prune_tool.redundancy.checks import Features, Float64, Int64, check_labels


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Images that no probe was fitted on.

    Attributes:
        features: ``(m, d)`` float32 or float64, raw.
        labels: ``(m,)`` int64.
        metric: how correct predictions are counted.
    """

    features: Features
    labels: Int64
    metric: Metric = "accuracy"

    def __len__(self) -> int:
        return len(self.labels)

    def score(self, predicted: Int64) -> Score:
        """What predictions ``(m,)`` are worth."""
        return score_of(self.labels, predicted, self.metric)


def score_of(labels: Int64, predicted: NDArray[Any], metric: Metric) -> Score:
    """Predictions ``(m,)`` against ``labels (m,)``."""
    correct = predicted == labels
    if metric == "accuracy":
        return Score(n_correct=int(correct.sum()), n_images=len(labels))
    return Score(n_correct=float(image_weights(labels)[correct].sum()), n_images=len(labels))


def image_weights(labels: Int64) -> Float64:
    """``(m,)`` float64, what each image counts where all classes present count alike: ``m / (c n_class)``, in all m."""
    counts = np.bincount(labels)
    return len(labels) / (np.count_nonzero(counts) * counts[labels])


def check_held_out(held_out: HeldOut, n_classes: int) -> None:
    """Require one label in range for each image. Raises ``DataError``."""
    check_labels(held_out.labels, len(held_out.features), n_classes)

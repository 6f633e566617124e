"""By how much a few validation images flatter a reading, or wrong it: told by all images that can take a turn.

Sweeps judge many subsets on the validation images, and the luck of those images is nearly the same for all subsets of a
reading. So it is enough to know it for one of few neurons, whose probes cost little to fit in every turn: what it does
on the validation images, less what it does on all images that take turns, is taken off the reading's accuracy (a
control variate) before readings are compared with each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.pipeline.features import FitData, Indices, Turn
from prune_tool.records import Trunk
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.sweep import sweep


def flattery(data: FitData, trunk: Trunk, subset: Mapping[str, Indices], device: str) -> float:
    """Accuracy (0 to 1) of a subset's ridge probe on the validation images, less that on all images that take turns.

    Args:
        data: says which those are.
        trunk: what computes the neurons.
        subset: per tap, the neurons that the probe reads.
        device: of the linear algebra.

    Returns:
        0 where no others take turns.
    """
    if not data.turns:
        return 0.0
    turns = (Turn(fit=data.train, val=data.val), *data.turns)
    neurons = data.features.columns(trunk, subset, np.arange(len(data.labels)))
    n_correct = np.array([_n_correct(data, neurons, turn, device) for turn in turns])
    n_images = np.array([len(turn.val) for turn in turns])
    return float(n_correct[0] / n_images[0] - n_correct.sum() / n_images.sum())


def _n_correct(data: FitData, neurons: NDArray[np.float32], turn: Turn, device: str) -> float:
    moments = MomentsAccumulator(neurons.shape[1], data.n_classes)
    moments.update(neurons[turn.fit], data.labels[turn.fit])
    held_out = data.judged(neurons[turn.val], turn.val)
    everything, size = np.arange(neurons.shape[1]), np.array([neurons.shape[1]])
    [n_correct] = sweep(moments.freeze(), held_out, everything, size, defaults.FLATTERY_RIDGE, device)
    return float(n_correct)

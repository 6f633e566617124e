"""Which candidates are worth a look: those that nothing cheaper equals."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prune_tool.errors import UsageError


def pareto_front(costs: ArrayLike, accuracies: ArrayLike) -> NDArray[np.int64]:
    """Indices of the candidates on the frontier of accuracy against cost, cheapest first.

    Along the frontier both cost and accuracy rise strictly. Of candidates that tie on accuracy the cheapest stays, of
    those that tie on both the first.

    Args:
        costs: (n,) finite, any unit; less is better.
        accuracies: (n,) finite, any unit; more is better.

    Returns:
        (m,) int64 indices into the input, by ascending cost; empty only if the input is.

    Raises:
        UsageError: the two are not vectors of one length, or hold a number that is not finite.
    """
    cost, accuracy = np.asarray(costs, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != accuracy.shape or not np.isfinite(np.stack([cost, accuracy])).all():
        raise UsageError(
            asked="the frontier of accuracy against cost",
            found=f"shapes {cost.shape} and {accuracy.shape}, or a number that is not finite",
            remedy="Give every candidate one finite cost and one finite accuracy",
        )
    order = np.lexsort((-accuracy, cost))
    best_before = np.maximum.accumulate(np.concatenate(([-np.inf], accuracy[order])))[:-1]
    return order[accuracy[order] > best_before].astype(np.int64)

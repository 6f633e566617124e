"""Which readings deserve a logistic probe: those near the front of ridge accuracy against cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.frontier.pareto import pareto_front
from prune_tool.records import Candidate, Cost, MeasuredReading


def near_front(
    measured: Sequence[MeasuredReading], slack: float = defaults.SCREEN_SLACK, most: int = defaults.MAX_PROBED
) -> list[int]:
    """Readings that no other beats by more than ``slack`` in accuracy at no more cost, cheapest first.

    A reading's accuracy is its best mean over draws, less what flatters it; its cost is the MACs of the network that
    ends at its cut. Of more than ``most`` such readings, those stay that fall least short of the front, the most
    accurate one among them. The most accurate of every trunk is kept besides, whatever others cost: ridge accuracy does
    not tell well who keeps all of it, and for a small budget only they will do.
    """
    macs = np.array([m.macs for m in measured])
    best = np.array([max(m.accuracy) - m.flattery for m in measured])
    order = np.lexsort((-best, macs))
    bar = np.maximum.accumulate(best[order])  # the best accuracy to be had at this cost or less
    short = bar - best[order]
    near = sorted(np.flatnonzero(short <= slack), key=lambda i: (short[i], -best[order[i]]))[:most]
    kept = {*order[near].tolist(), *_most_accurate(measured, best)}
    return [int(i) for i in order if i in kept]


def _most_accurate(measured: Sequence[MeasuredReading], accuracy: NDArray[np.float64]) -> Iterator[int]:
    """The place of the most accurate reading of each trunk."""
    trunks = [m.reading.trunk for m in measured]
    for trunk in dict.fromkeys(trunks):
        yield max((i for i, own in enumerate(trunks) if own == trunk), key=lambda i: float(accuracy[i]))


def front(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    """Candidates that no other matches in accuracy at less cost, cheapest first."""
    best = pareto_front(cost_ranks(candidates, cost), [c.val.accuracy for c in candidates])
    return [candidates[int(i)] for i in best]


def cost_ranks(candidates: Sequence[Candidate], cost: Cost) -> NDArray[np.int64]:
    """(n,) rank of each candidate by its cost; equal costs share a rank."""
    costs = [c.cost(cost) for c in candidates]
    rank = {cost: i for i, cost in enumerate(sorted(set(costs)))}
    return np.array([rank[cost] for cost in costs], dtype=np.int64)

"""Accuracy of the ridge probe of every random subset, from one factorisation a draw.

The random subset of size ``k`` is the prefix ``p[:k]`` of a permutation; ``prefixes`` solves for all of them at once.
Here a curve is made of that: draws, and the strength for each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.moments import Moments
from prune_tool.redundancy.prefixes import Draw, Problem, n_correct_of, prepare

_N_PILOTS = 2  # draws that try every strength
_N_STRENGTHS = 2  # strengths that the sizes of one layer choose between: a third brings less than the draws differ by


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Correct validation predictions of ridge probes on random subsets.

    Attributes:
        width: neurons of the full layer.
        sizes: ``(s,)`` int64, ascending subset sizes.
        n_correct: ``(r, s)``, correct predictions of each draw at each size: int64, or float64 where classes count
            alike (see ``records.Score``).
        n_val: validation images.
        ridge: ``(s,)`` float64, strength chosen at each size, in multiples of the number of training images.
    """

    width: int
    sizes: Int64
    n_correct: Int64 | Float64
    n_val: int
    ridge: Float64

    @property
    def accuracy(self) -> Float64:
        """``(s,)``, mean over draws, 0 to 1."""
        mean: Float64 = self.n_correct.sum(axis=0) / (self.n_correct.shape[0] * self.n_val)
        return mean

    @property
    def spread(self) -> Float64:
        """``(s,)``, sample standard deviation of accuracy over draws (divisor ``r - 1``); 0 for a single draw."""
        n_draws = len(self.n_correct)
        spread: Float64 = (self.n_correct / self.n_val).std(axis=0, ddof=min(1, n_draws - 1))
        return spread


def sweep(
    moments: Moments,
    val: HeldOut,
    permutation: Int64,
    sizes: Int64,
    ridge: float,
    device: str = "cpu",
) -> Int64 | Float64:
    """Correct validation predictions of the ridge probe on each prefix of one permutation.

    Args:
        moments: of the training images.
        val: the validation images, and how they count.
        permutation: ``(m,)`` int64, distinct neurons, ``m <= d``.
        sizes: ``(s,)`` int64, ascending sizes in ``1..m``.
        ridge: strength, as a multiple of the number of training images; above 0.
        device: PyTorch device of the linear algebra, float64 on each.

    Returns:
        ``(s,)`` int64, or float64 where classes count alike. The prediction is the class of the highest score, the
        lowest class among equals.

    Raises:
        DataError: validation images that do not fit the moments, or a strength too small to factor.
        UsageError: sizes out of order or out of range, or a strength that is not positive.
    """
    return n_correct_of(Draw(prepare(moments, val, device), permutation), sizes, ridge)


def sweep_draws(
    moments: Moments,
    val: HeldOut,
    permutations: Int64,
    sizes: Int64,
    ridge_grid: Sequence[float],
    device: str = "cpu",
) -> Curve:
    """The curve over ``permutations (r, d)``, with the strength chosen for each size.

    The first two draws try every strength of ``ridge_grid``. The pair of strengths that together serves the sizes best
    is kept, and each size takes the one with most correct predictions over both draws, ties to the stronger. The other
    draws factor only these, up to the largest size that chose them. The other arguments, the errors and the rule for
    ties are those of ``sweep``. The same input gives the same curve, bit for bit, on one machine with one number of
    threads.
    """
    problem = prepare(moments, val, device)
    strengths = sorted(set(ridge_grid), reverse=True)
    pilots = np.array(
        [_n_correct_each(problem, order, sizes, strengths) for order in permutations[:_N_PILOTS]]
    )  # (pilot, strength, size)
    choice = _choice(pilots.sum(axis=0))
    n_correct = np.empty((len(permutations), len(sizes)), pilots.dtype)
    n_correct[:_N_PILOTS] = pilots[:, choice, np.arange(len(sizes))]
    for i, order in enumerate(permutations[_N_PILOTS:], start=_N_PILOTS):
        draw = Draw(problem, order)
        for chosen in np.unique(choice):
            at = choice == chosen
            n_correct[i, at] = n_correct_of(draw, sizes[at], strengths[chosen])
    return Curve(
        width=permutations.shape[1],
        sizes=sizes,
        n_correct=n_correct,
        n_val=len(val),
        ridge=np.array(strengths)[choice],
    )


def _n_correct_each(problem: Problem, order: Int64, sizes: Int64, strengths: Sequence[float]) -> list[Int64 | Float64]:
    draw = Draw(problem, order)
    return [n_correct_of(draw, sizes, strength) for strength in strengths]


def _choice(n_correct: Int64 | Float64) -> Int64:
    """For each size, the strength to use, from ``n_correct (strength, size)``; at most ``_N_STRENGTHS`` differ."""
    groups = list(combinations(range(len(n_correct)), min(_N_STRENGTHS, len(n_correct))))
    kept = np.array(max(groups, key=lambda group: n_correct[list(group)].max(axis=0).sum().item()))
    choice: Int64 = kept[n_correct[kept].argmax(axis=0)]
    return choice

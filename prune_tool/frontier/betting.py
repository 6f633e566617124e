"""A test that the mean of bounded numbers is above 0, valid at every sample size and for any law within the bounds.

A gambler starts with a wealth of 1 and bets on each number before it is seen; where the mean is not above 0, the bets
are fair or worse, so that the wealth ever reaches ``1 / alpha`` with probability ``alpha`` at most (Ville's
inequality; Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024). How to bet
decides the power alone. Bets here are those of Voracek & Orabona, "STaR-Bets: Sequential Target-Recalculating Bets for
Tighter Confidence Intervals" (NeurIPS 2025): each time just as much as Bernstein's inequality would take to reach the
target with the numbers that are left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR_SQUARE = 0.25
"""Second moment assumed before the first number, with the weight of one number: the largest variance within a range of
1. It makes the first bets small and is forgotten after a few dozen."""

MOST_AT_STAKE = 0.95
"""Share of the wealth that a bet may lose at most: one bad number must not end the game. With fewer than a hundred
numbers it is what limits the power."""

SEARCH_STEP = 1.02
"""Growth of the search for how many numbers it takes. The law it starts from is far less certain than 2 %."""

SEARCH_LIMIT = 10**9
"""Where that search gives up: a mean this close to 0 will never be told from it."""


def p_values(numbers: Floats, least: Floats, alpha: float) -> Floats:
    """P-value of "the mean is at most 0" for each of ``s`` sequences.

    Args:
        numbers: ``(s, m)`` float64, independent within a sequence, with a common mean.
        least: ``(s,)`` float64, what no number of the sequence can be below; under 0.
        alpha: level at which bets aim. Valid at every level, most powerful at this one.

    Returns:
        ``(s,)``, one over the most wealth ever held, at most 1.
    """
    n_sequences, n_numbers = numbers.shape
    target = -np.log(alpha)
    log_wealth, best = np.zeros(n_sequences), np.zeros(n_sequences)
    squares = np.full(n_sequences, PRIOR_SQUARE)
    for i in range(n_numbers):
        missing = np.maximum(target - log_wealth, 0)  # 0 where the target is reached: no more bets
        bet = np.sqrt(2 * missing / ((n_numbers - i) * squares / (i + 1)))
        bet = np.minimum(bet, MOST_AT_STAKE / -least)
        log_wealth += np.log1p(bet * numbers[:, i])
        best = np.maximum(best, log_wealth)
        squares += np.square(numbers[:, i])
    p: Floats = np.exp(-best)
    return p


def n_numbers_needed(numbers: Floats, least: float, alpha: float) -> float | None:
    """About how many numbers like ``numbers (m,)`` the test takes; None where their mean is not above 0.

    So many that the bets of the first, kept up to the last, earn ``1 / alpha`` on average.
    """
    target, square = -np.log(alpha), float(np.square(numbers).mean())
    if numbers.mean() <= 1e-12:
        return None
    needed = 1.0
    while needed < SEARCH_LIMIT:
        bet = min(np.sqrt(2 * target / (needed * square)), MOST_AT_STAKE / -least)
        if needed * np.log1p(bet * numbers).mean() >= target:
            return needed
        needed *= SEARCH_STEP
    return None

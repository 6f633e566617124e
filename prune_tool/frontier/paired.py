"""An exact test that one classifier is not much worse than another on the same images, valid at every sample size.

Notation. Each of ``m`` images is *lost* (full right, kept wrong) with probability ``q``, *won* (the reverse) with
probability ``t``, or neither. The null hypothesis "the drop is at least the budget" reads ``q - c t >= b``.

Why not a test for any bounded variable: on 656 images of which 4 % are lost and 3 % won, this one certifies a budget of
5 % in 93 of 100 tasks; a betting e-value (Waudby-Smith & Ramdas, JRSS-B 2024) in 75 if an oracle chooses the bet and in
49 if 40 bets share the wealth; Hoeffding's bound in none. An image has three outcomes, and their law is known but for
one number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv, gammaln, xlog1py, xlogy

Floats = NDArray[np.float64]

NUISANCE_RISK = 1e-4
"""Probability left for the nuisance outside its confidence set (``gamma`` of Berger & Boos). Small against any usual
alpha, and still keeps the set to about eight standard errors. No p-value is below it."""

SLACK, SLACK_PER_P = 0.02, 0.2
"""A p-value may exceed its supremum by this share, or by this times itself as a share, whichever is more: 0.05 reads at
most 0.051, and 0.5, which nobody reads closely, 0.55. Never the other way. Halving it would double the time."""

N_CELLS = 16
"""Cells that the search for the supremum starts from."""

TAIL_SD, TAIL_IMAGES = 8.0, 20
"""Won images summed over: within eight standard deviations plus twenty of their mean; beyond is under 1e-12."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """``q - c t >= b`` on ``m`` images; on its boundary the won rate ``t`` is the one unknown.

    A budget in points has ``c = 1`` and all images. A relative budget ``b`` has ``c = 1 - b`` on the images that either
    classifier gets right: the others count nothing on either side, and given their number the rest is trinomial again.
    """

    b: float
    c: float
    m: int

    def lost_rate(self, t: Floats) -> Floats:
        """``q`` on the boundary."""
        return self.b + self.c * t

    @property
    def max_won_rate(self) -> float:
        """Largest ``t`` at which the three probabilities still fit into one."""
        return (1 - self.b) / (1 + self.c)


def score(null: Null, n_lost: Floats | float, n_won: Floats | float) -> Floats:
    """Score statistic of each table, (...) float64; the more negative, the stronger the evidence against the null.

    The variance is taken at the won rate most likely under the boundary, the positive root of a quadratic (Nam,
    Biometrics 1997; Tango, Stat. Med. 1998; for ratios Nam & Blackwelder, Stat. Med. 2002). It rises in ``n_lost``
    and falls in ``n_won``, hence the null's supremum lies on its boundary (Sidik, Stat. Med. 2003).
    """
    b, c, m = null.b, null.c, null.m
    square = c * (1 + c) * m
    linear = c * n_lost * (1 - b) + n_won * (c * (1 - b) - b * (1 + c)) - (1 + c) * b * (m - n_lost - n_won)
    constant = n_won * b * (1 - b)
    root = np.sqrt(linear**2 + 4 * square * constant)
    # Two forms of the same root; each is used where it does not subtract nearly equal numbers.
    t = np.where(linear >= 0, (linear + root) / (2 * square), 2 * constant / np.where(linear >= 0, 1, root - linear))
    variance = m * (b + c * t + c * c * t - b * b)
    evidence = n_lost - c * n_won - b * m
    return np.where(variance > 0, evidence / np.sqrt(np.where(variance > 0, variance, 1)), 0.0)


def p_value(null: Null, *, n_lost: int, n_won: int) -> float:
    """Exact p-value of the null: the probability, at worst, of a table at least as favourable to the kept classifier.

    Unconditional, ordered by the score, maximised over a confidence set of the nuisance (Berger & Boos, JASA 1994).
    The maximum is bounded from above, not sampled, so under the null ``P(p <= alpha) <= alpha`` at every ``m``. More
    won images or fewer lost ones never raise it (but for ``SLACK``).

    Args:
        null: the hypothesis to reject.
        n_lost: images that full gets right and kept wrong.
        n_won: images that kept gets right and full wrong.
    """
    if null.m == 0:
        return 1.0
    low, high = _nuisance_set(null, n_lost, n_won)
    if low > high:
        return NUISANCE_RISK
    most_lost = _rejection_region(null, n_lost, n_won)
    return min(1.0, NUISANCE_RISK + _supremum(null, most_lost, low, high))


def _nuisance_set(null: Null, n_lost: int, n_won: int) -> tuple[float, float]:
    """Won rates not ruled out at ``NUISANCE_RISK``, by one Clopper-Pearson bound on each side.

    The upper one is read from the lost images (``t <= (q - b) / c``): a table more favourable to kept then never
    widens the set, so that it never raises the p-value.
    """
    won_at_least = betaincinv(n_won, null.m - n_won + 1, NUISANCE_RISK / 2) if n_won else 0.0
    lost_at_most = betaincinv(n_lost + 1, null.m - n_lost, 1 - NUISANCE_RISK / 2) if n_lost < null.m else 1.0
    return float(won_at_least), min(null.max_won_rate, float(lost_at_most - null.b) / null.c)


def _rejection_region(null: Null, n_lost: int, n_won: int) -> NDArray[np.int64]:
    """For each number of won images, (m + 1,), the most lost ones that score no more than the table; -1 if none do."""
    observed = score(null, n_lost, n_won) + 1e-9  # a tie is a tie despite rounding
    won = np.arange(null.m + 1, dtype=np.float64)
    inside, outside = np.full(null.m + 1, -1.0), null.m - won + 1
    while (open_ := outside - inside > 1).any():
        middle = np.where(open_, np.floor((inside + outside) / 2), inside)
        is_inside = open_ & (score(null, np.maximum(middle, 0), won) <= observed)
        inside = np.where(is_inside, middle, inside)
        outside = np.where(open_ & ~is_inside, middle, outside)
    return inside.astype(np.int64)


def _probability(null: Null, most_lost: NDArray[np.int64], lost_rates: Floats, won_rates: Floats) -> Floats:
    """Probability of the region at each pair of rates, (k,): won images are binomial, lost ones given those are too."""
    m, t = null.m, won_rates[:, None]
    reach = TAIL_SD * np.sqrt(m * won_rates * (1 - won_rates)) + TAIL_IMAGES
    won = np.arange(max(0, int((m * won_rates - reach).min())), min(m, int((m * won_rates + reach).max())) + 1)
    log_ways = gammaln(m + 1) - gammaln(won + 1) - gammaln(m - won + 1)
    p_won = np.exp(log_ways + xlogy(won, t) + xlog1py(m - won, -t))
    most = most_lost[won]
    given_won = bdtr(np.maximum(most, 0).astype(np.float64), m - won, np.minimum(1, lost_rates[:, None] / (1 - t)))
    joint: Floats = (p_won * np.where(most < 0, 0.0, given_won)).sum(axis=1)
    return joint


def _supremum(null: Null, most_lost: NDArray[np.int64], low: float, high: float) -> float:
    """Upper bound, hardly too large (``SLACK``), of the region's probability over won rates in [low, high].

    The probability falls in the lost rate and rises in the won rate. So within a cell [t0, t1] it is at most what lost
    rate ``b + c t0`` and won rate ``t1`` give. Cells whose bound is too loose are halved until none is.
    """
    attained, bound = 0.0, 0.0
    edges = np.linspace(low, high, N_CELLS + 1)
    t0, t1 = edges[:-1], edges[1:]
    while t0.size:
        middle = (t0 + t1) / 2
        attained = max(attained, _probability(null, most_lost, null.lost_rate(middle), middle).max())
        bounds = _probability(null, most_lost, null.lost_rate(t0), t1)
        loose = bounds > attained * (1 + max(SLACK, SLACK_PER_P * attained)) + NUISANCE_RISK
        bound = max(bound, bounds[~loose].max(initial=0.0))
        t0, t1 = np.concatenate([t0[loose], middle[loose]]), np.concatenate([middle[loose], t1[loose]])
    return float(bound)

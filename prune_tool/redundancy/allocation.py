"""How many neurons to keep where: the least summed error at a given cost.

Every hidden width has a curve of errors and all widths share one cost. From all neurons kept, the allocation walks down
the lower convex hulls of the curves, each time the step that costs least error per saving, until the target is met:
the path of the Lagrangian, which is optimal at each of its points where costs add up (Everett, "Generalized Lagrange
multiplier method", Operations Research, 1963). Two widths of one layer, its inputs and its outputs, multiply; the
saving of a step is then taken where the walk stands. What the last step saved too much is given back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prune_tool.errors import UsageError
from prune_tool.redundancy.checks import Float64, Int64

_SHARES = 2**12  # uniform shares tried: finer than one neuron of the widest layer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Width:
    """One hidden width.

    Attributes:
        errors: ``(w + 1,)`` float64; entry ``k`` is the error with ``k`` neurons kept.
        unit: what is kept is a multiple of this, or all ``w``.
    """

    errors: Float64
    unit: int

    @property
    def sizes(self) -> Int64:
        """What may be kept, ascending, at least ``unit``; the last is ``w``."""
        w = len(self.errors) - 1
        return np.union1d(np.arange(min(self.unit, w), w + 1, self.unit), [w]).astype(np.int64)


def unit_of(width: int, n_parts: int, round_to: int) -> int:
    """The multiple to keep of a width of ``n_parts`` equal parts.

    It is one of ``round_to`` or, where that would leave fewer than four sizes to choose from, of its half, its quarter
    and so on.
    """
    while math.lcm(n_parts, round_to) * 4 > width and round_to > 1:
        round_to //= 2
    return math.lcm(n_parts, round_to)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCost:
    """A cost that widths share: a sum of terms, each a coefficient times the kept share of every width it names.

    Attributes:
        terms: (coefficient, places of widths); a term without places is what no narrowing saves. A layer whose inputs
            and outputs are both narrowed names two.
        whole: the cost that shares are told of: the network's as it is, which may do more than what the widths leave.
    """

    terms: tuple[tuple[float, tuple[int, ...]], ...]
    whole: float

    def of(self, shares: Float64) -> float:
        """Cost where ``shares (n_widths,)`` of the neurons are kept, each 0 to 1."""
        return float(sum(coefficient * math.prod(shares[list(places)]) for coefficient, places in self.terms))

    def slopes(self, shares: Float64) -> Float64:
        """``(n_widths,)``, cost of the whole of each width while the others stay at ``shares``."""
        slopes = np.zeros(len(shares))
        for coefficient, places in self.terms:
            for place in places:
                slopes[place] += coefficient * math.prod(float(shares[p]) for p in places if p != place)
        return slopes


def allocate(widths: Sequence[Width], cost: SharedCost, target: float) -> Int64:
    """Neurons to keep of each width, ``(n_widths,)`` int64, with the least summed error found at ``cost <= target``.

    Never worse in summed error than ``uniform``. Deterministic: the earlier width goes first among equals.

    Raises:
        UsageError: the target cannot be met, not even with one unit of each width.
    """
    even = uniform(widths, cost, target)
    walked = _filled(widths, cost, target, _walked(widths, cost, target))
    return min((walked, even), key=lambda kept: summed_error(widths, kept))


def uniform(widths: Sequence[Width], cost: SharedCost, target: float) -> Int64:
    """The largest share, the same of every width, at ``cost <= target``, each rounded to the nearest size.

    Raises:
        UsageError: the target cannot be met, not even with one unit of each width.
    """

    def kept_at(share: float) -> Int64:
        nearest = [w.sizes[np.abs(w.sizes - share * w.sizes[-1]).argmin()] for w in widths]
        return np.array(nearest, np.int64)

    least = least_share(widths, cost)
    if least * cost.whole > target:
        would_do = math.ceil(100 * least + 1e-9) / 100
        raise UsageError(
            asked=f"narrow to {target / cost.whole:.0%} of the cost",
            found=f"{100 * least:.1f} % of it are left with the fewest neurons in every hidden width",
            remedy=f"Ask for {would_do:g} or more" if would_do < 1 else "Narrow nothing: most of the cost is elsewhere",
        )
    low, high = 0, _SHARES + 1  # the share low meets the target, high does not (or is above 1)
    while high - low > 1:
        middle = (low + high) // 2
        if middle <= _SHARES and cost.of(_shares(widths, kept_at(middle / _SHARES))) <= target:
            low = middle
        else:
            high = middle
    return kept_at(low / _SHARES)


def least_share(widths: Sequence[Width], cost: SharedCost) -> float:
    """Share of the whole cost that is left with the fewest neurons of every width, above 0 to 1."""
    fewest = np.array([width.sizes[0] for width in widths], np.int64)
    return cost.of(_shares(widths, fewest)) / cost.whole


def summed_error(widths: Sequence[Width], kept: Int64) -> float:
    """Sum of the widths' errors where ``kept (n_widths,)`` neurons are kept."""
    return float(sum(width.errors[k] for width, k in zip(widths, kept, strict=True)))


def _shares(widths: Sequence[Width], kept: Int64) -> Float64:
    return kept / np.array([len(width.errors) - 1 for width in widths], np.float64)


def _walked(widths: Sequence[Width], cost: SharedCost, target: float) -> Int64:
    """Down the hulls, the cheapest step in error first, until ``cost <= target``."""
    hulls = [_lower_hull(width) for width in widths]
    at = [len(hull) - 1 for hull in hulls]
    kept = np.array([hull[-1] for hull in hulls], np.int64)
    while cost.of(shares := _shares(widths, kept)) > target:
        slopes = cost.slopes(shares)
        prices = np.full(len(widths), np.inf)
        for i, (width, hull) in enumerate(zip(widths, hulls, strict=True)):
            if at[i] > 0 and slopes[i] > 0:
                fewer = hull[at[i] - 1]
                saved = slopes[i] * (kept[i] - fewer) / (len(width.errors) - 1)
                prices[i] = (width.errors[fewer] - width.errors[kept[i]]) / saved
        i = int(prices.argmin())
        at[i] -= 1
        kept[i] = hulls[i][at[i]]
    return kept


def _lower_hull(width: Width) -> Int64:
    """The sizes at which the lower convex hull of the error over the size has its corners, ascending."""
    hull: list[int] = []
    errors = width.errors
    for size in width.sizes.tolist():
        while len(hull) > 1:
            a, b = hull[-2:]
            if (errors[b] - errors[a]) * (size - b) < (errors[size] - errors[b]) * (b - a):
                break
            hull.pop()
        hull.append(size)
    return np.array(hull, np.int64)


def _filled(widths: Sequence[Width], cost: SharedCost, target: float, kept: Int64) -> Int64:
    """Neurons given back where they fit, the most error per cost first."""
    while True:
        shares = _shares(widths, kept)
        spent, slopes = cost.of(shares), cost.slopes(shares)
        best, chosen = 0.0, kept
        for i, width in enumerate(widths):
            more = width.sizes[width.sizes > kept[i]]
            extra = slopes[i] * (more - kept[i]) / (len(width.errors) - 1)
            gain = (width.errors[kept[i]] - width.errors[more]) / np.maximum(extra, np.finfo(np.float64).tiny)
            gain[spent + extra > target] = 0.0
            if len(more) and gain.max() > best:
                fuller = np.where(np.arange(len(kept)) == i, more[gain.argmax()], kept)
                if cost.of(_shares(widths, fuller)) <= target:  # to the last bit
                    best, chosen = float(gain.max()), fuller
        if chosen is kept:
            return kept
        kept = chosen

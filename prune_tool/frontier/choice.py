"""From a frontier and a budget to the candidates worth a certificate, safest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prune_tool.errors import BudgetError, LimitError
from prune_tool.records import Budget, Candidate, Cost, Limit, Limited, Score


def within_budget(
    candidates: Sequence[Candidate], full: Score, budget: Budget, name: Callable[[Candidate], str]
) -> list[Candidate]:
    """Candidates that meet the budget on the validation images, cheapest first (the order they come in).

    Args:
        candidates: a front, cheapest first.
        full: the full backbone's validation score.
        budget: the loss allowed.
        name: says where a candidate is cut, for the error.

    Raises:
        BudgetError: none does; the message names the nearest and the budget that would take it.
    """
    met = [candidate for candidate in candidates if budget.is_met(candidate.val, full)]
    if met:
        return met
    best = max(candidates, key=lambda candidate: candidate.val.accuracy)
    raise BudgetError(
        asked=f"keep {100 * budget.floor(full):.1f} % accuracy ({full} less {budget})",
        found=f"no candidate does; the best reaches {best.val} with {best.n_neurons:,} neurons of {name(best)}",
        remedy=f"--budget {least_budget(best.val, full, budget)} would take it",
    )


Price = Callable[[Candidate, Limited], tuple[float, float]]
"""What a candidate costs at least and at most, in the unit of a limit; both are the same where it is known."""


def by_accuracy(
    candidates: Sequence[Candidate], limits: Sequence[Limit], name: Callable[[Candidate], str], price: Price
) -> list[Candidate]:
    """The candidates that stay within all limits, from most correct validation predictions on; the cheaper of equals.

    Args:
        candidates: all that could ship.
        limits: what it may cost; at least one.
        name: says where a candidate is cut, for the error.
        price: what is held to the limits: what each costs at least.

    Raises:
        LimitError: none fits; the message names the one that exceeds its limit least, and what would surely take it.
    """

    def excess(candidate: Candidate) -> float:
        return max(price(candidate, limit.kind)[0] / limit.most for limit in limits)

    fitting = [candidate for candidate in candidates if excess(candidate) <= 1]
    if fitting:
        return sorted(fitting, key=lambda c: (-c.val.accuracy, c.macs, c.n_neurons))
    nearest = min(candidates, key=excess)
    raise LimitError(
        asked=f"a network of at most {' and '.join(map(str, limits))}",
        found=f"no candidate is; the nearest has {nearest.n_neurons:,} neurons of {name(nearest)}",
        remedy=would_take({limit: price(nearest, limit.kind)[1] for limit in limits}),
    )


def would_take(costs: Mapping[Limit, float]) -> str:
    """The remedy that lets through what costs this much under each limit."""
    return f"{' '.join(f'--max-{limit.kind} {_typed(cost, limit)}' for limit, cost in costs.items())} would take it"


def _typed(cost: float, limit: Limit) -> str:
    """A limit that just takes ``cost``, or the one that it stays within, as one would type it."""
    if limit.kind == "latency":
        return f"{np.ceil(100 * max(cost, limit.most)) / 100:g}ms"
    millions = np.ceil(max(cost, limit.most) / 1e4) / 100
    return f"{millions:.12g}{'MB' if limit.kind == 'size' else 'M'}"


def least_budget(kept: Score, full: Score, like: Budget) -> str:
    """The smallest budget, as one would type it, that takes ``kept``; rounded up to a tenth of a per cent."""
    loss = full.accuracy - kept.accuracy
    share = loss / full.accuracy if like.kind == "relative" else loss
    thousandths = max(0, int(np.ceil(1000 * share - 1e-9)))
    return f"{thousandths / 1000:g}" if like.kind == "relative" else f"{thousandths / 10:g}pp"


def smallest_size(meets: Callable[[int], bool], known: int) -> int:
    """The smallest subset size that meets the budget, found by halving; ``known`` meets it.

    Accuracy grows with size but for noise, so what is found is a size that meets the budget next to one that does not,
    to a resolution of a sixteenth of ``known``. Where ``meets`` is true of fewer sizes, what is found is no smaller.
    """
    low, high = 0, known
    while high - low > max(1, known // 16):
        middle = (low + high + 1) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def cheapest_subset(
    eligible: Sequence[Candidate],
    cost: Cost,
    *,
    meets: Callable[[Candidate], bool],
    shrunk: Callable[[Candidate, int], Candidate],
    promised: Callable[[Candidate, int], Candidate],
) -> Candidate:
    """The cheapest of what halving finds from any candidate that meets the budget.

    A tighter budget never finds a cheaper one: it starts from fewer candidates, and each halving ends no lower. That
    holds because nothing but ``meets`` depends on the budget; starting from the cheapest alone, it would not.

    Args:
        eligible: of a front, those that meet the budget.
        cost: what is to be little; it falls as a subset shrinks.
        meets: whether a candidate meets the budget.
        shrunk: a candidate cut to a number of neurons, with its accuracy.
        promised: the same without a look at its accuracy, which takes no time. A candidate whose smallest subset would
            not be cheaper than what is found already is not looked into.
    """
    least = {c: promised(c, smallest_size(lambda _: True, c.n_neurons)).cost(cost) for c in eligible}
    best = min(eligible, key=lambda c: c.cost(cost))
    for candidate in sorted(eligible, key=least.__getitem__):
        if least[candidate] >= best.cost(cost):
            break
        found = {candidate.n_neurons: candidate}

        def fits(n_neurons: int, candidate: Candidate = candidate, found: dict[int, Candidate] = found) -> bool:
            found[n_neurons] = shrunk(candidate, n_neurons)
            return meets(found[n_neurons])

        best = min(best, found[smallest_size(fits, candidate.n_neurons)], key=lambda c: c.cost(cost))
    return best


def safe_to_cheap(eligible: Sequence[Candidate], last: Candidate, cost: Cost) -> list[Candidate]:
    """The order of testing: from the most accurate candidate down the front to ``last``, the cheapest.

    It is settled without the test images, as fixed-sequence testing requires.
    """
    dearer = [c for c in eligible if c.cost(cost) > last.cost(cost) and c.val.accuracy >= last.val.accuracy]
    return [*sorted(dearer, key=lambda c: c.cost(cost), reverse=True), last]

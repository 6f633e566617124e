"""The allocation meets its target, beats the same share everywhere, and is the best there is where costs add up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.errors import UsageError
from prune_tool.redundancy.allocation import SharedCost, Width, allocate, summed_error, uniform, unit_of


def problem(n_widths, chained, seed, unit=1):
    """Random falling curves; costs that add up or, chained, multiply from one width to the next."""
    rng = np.random.default_rng(seed)
    widths = [
        Width(errors=np.sort(rng.random(rng.integers(2, 9) * unit + 1))[::-1] * rng.uniform(0.1, 3), unit=unit)
        for _ in range(n_widths)
    ]
    terms = [(float(rng.uniform(0, 1)), ())]
    terms += [(float(rng.uniform(0.5, 2)), (i,)) for i in range(n_widths)]
    if chained:
        terms += [(float(rng.uniform(0.5, 2)), (i, i + 1)) for i in range(n_widths - 1)]
    return widths, SharedCost(terms=tuple(terms), whole=sum(term for term, _ in terms))


def cost_at(widths, cost, kept):
    return cost.of(np.array([k / (len(w.errors) - 1) for w, k in zip(widths, kept, strict=True)]))


CASES = {
    "n_widths": st.integers(1, 4),
    "chained": st.booleans(),
    "seed": st.integers(0, 10**6),
    "unit": st.sampled_from([1, 2, 3]),
    "share": st.floats(0.3, 1.0),
}


@settings(deadline=None, max_examples=80)
@given(**CASES)
def test_the_target_is_met_and_uniform_is_beaten(n_widths, chained, seed, unit, share):
    widths, cost = problem(n_widths, chained, seed, unit)
    target = share * cost.of(np.ones(n_widths))
    if cost_at(widths, cost, [w.sizes[0] for w in widths]) > target:
        for how in (allocate, uniform):
            with pytest.raises(UsageError, match="are left with the fewest neurons"):
                how(widths, cost, target)
        return
    even, chosen = uniform(widths, cost, target), allocate(widths, cost, target)
    for kept in (even, chosen):
        assert cost_at(widths, cost, kept) <= target
        assert all(k in w.sizes for k, w in zip(kept, widths, strict=True))
    assert summed_error(widths, chosen) <= summed_error(widths, even)
    assert np.array_equal(chosen, allocate(widths, cost, target))


@settings(deadline=None, max_examples=60)
@given(n_widths=st.integers(1, 3), seed=st.integers(0, 10**6), place=st.integers(0, 20))
def test_on_its_path_it_is_optimal(n_widths, seed, place):
    """At the cost of a point of the Lagrangian's path no other choice of sizes has less error."""
    widths, cost = problem(n_widths, False, seed)
    price = np.geomspace(1e-3, 10, 21)[place]
    slopes = cost.slopes(np.ones(n_widths))
    at = [
        int(w.sizes[(w.errors[w.sizes] + price * s * w.sizes / w.sizes[-1]).argmin()])
        for w, s in zip(widths, slopes, strict=True)
    ]
    target = cost_at(widths, cost, at) + 1e-12
    chosen = allocate(widths, cost, target)
    every = itertools.product(*(w.sizes for w in widths))
    best = min(summed_error(widths, kept) for kept in every if cost_at(widths, cost, kept) <= target)
    assert summed_error(widths, chosen) == pytest.approx(best, abs=1e-12)


def test_a_width_that_matters_keeps_more():
    steep, flat = np.linspace(10, 0, 65), np.linspace(1, 0, 65)
    widths = [Width(errors=steep, unit=8), Width(errors=flat, unit=8)]
    cost = SharedCost(terms=((1.0, (0,)), (1.0, (1,))), whole=2.0)
    assert allocate(widths, cost, 1.25).tolist() == [64, 16]
    assert uniform(widths, cost, 1.25).tolist() == [40, 40]


def test_what_multiplies_is_counted_once():
    """Half of the inputs and half of the outputs of one layer leave a quarter of it, not nothing."""
    cost = SharedCost(terms=((8.0, (0, 1)),), whole=8.0)
    assert cost.of(np.array([0.5, 0.5])) == 2.0
    assert cost.slopes(np.array([0.5, 1.0])).tolist() == [8.0, 4.0]
    widths = [Width(errors=np.linspace(1, 0, 17), unit=8)] * 2
    assert allocate(widths, cost, 2.0).tolist() == [8, 8]


def test_the_remedy_works():
    widths, cost = problem(3, True, 0)
    with pytest.raises(UsageError, match=r"Ask for ([\d.]+) or more") as caught:
        allocate(widths, cost, 0.0)
    share = float(caught.value.remedy.split()[2])
    allocate(widths, cost, share * cost.of(np.ones(3)))


@pytest.mark.parametrize(
    ("width", "n_parts", "round_to", "unit"),
    [(64, 1, 8, 8), (32, 1, 8, 8), (24, 1, 8, 4), (3, 1, 8, 1), (384, 6, 8, 24), (64, 32, 8, 32), (10, 5, 8, 5)],
)
def test_widths_are_rounded_as_far_as_they_allow(width, n_parts, round_to, unit):
    assert unit_of(width, n_parts, round_to) == unit


def test_sizes_end_at_the_whole_width():
    assert Width(errors=np.zeros(21), unit=8).sizes.tolist() == [8, 16, 20]
    assert Width(errors=np.zeros(4), unit=8).sizes.tolist() == [3]

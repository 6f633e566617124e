"""Critical sizes and diffuse redundancy: the definition, its theorems, and what cannot be reached."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.errors import UsageError
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.measures import critical_size, diffuse_redundancy
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.redundancy.sweep import Curve, sweep_draws


def curve(n_correct, sizes=(1, 2, 4, 8), n_val=100):
    counts = np.array(n_correct, np.int64)
    return Curve(
        width=8, sizes=np.array(sizes, np.int64), n_correct=counts, n_val=n_val, ridge=np.full(len(sizes), 0.1)
    )


curves = st.lists(st.lists(st.integers(0, 100), min_size=4, max_size=4), min_size=1, max_size=5).map(curve)
shares = st.floats(0, 1)


def test_the_smallest_size_whose_mean_meets_the_threshold():
    found = critical_size(curve([[10, 70, 80, 90], [30, 50, 60, 90]]), 0.60)  # means 0.2, 0.6, 0.7, 0.9
    assert (found.size, found.reached, found.width) == (2, True, 8)
    assert (found.min, found.max, found.mean) == (2, 4, 3)
    assert found.std == pytest.approx(np.sqrt(2))


def test_a_threshold_out_of_reach_says_so_and_counts_as_the_width():
    found = critical_size(curve([[10, 20, 30, 40]]), 0.5)
    assert (found.size, found.reached, found.max, found.std) == (8, False, 8, 0.0)
    only_one_draw = critical_size(curve([[10, 20, 30, 40], [10, 20, 30, 60]]), 0.5)
    assert (only_one_draw.size, only_one_draw.reached) == (8, True)
    assert (only_one_draw.min, only_one_draw.max) == (8, 8)


def test_strict_never_falls_below_the_threshold_and_nearest_may():
    layer = curve([[50, 80, 91, 100]])
    strict, nearest = diffuse_redundancy(layer, 0.84), diffuse_redundancy(layer, 0.84, strict=False)
    assert (strict.critical.size, strict.value) == (4, 0.5)
    assert (nearest.critical.size, nearest.value) == (2, 0.75)
    assert (strict.strict, nearest.strict) == (True, False)


def test_the_spread_is_that_of_the_draws_own_redundancies():
    found = diffuse_redundancy(curve([[90, 90, 90, 90], [10, 10, 90, 90]]), 1.0)
    assert found.value == 0.5
    assert found.spread == pytest.approx(np.std([1 - 1 / 8, 1 - 4 / 8], ddof=1))


@given(curves, shares, shares)
def test_redundancy_falls_as_more_accuracy_is_kept(layer, a, b):
    low, high = sorted((a, b))
    assert diffuse_redundancy(layer, low).value >= diffuse_redundancy(layer, high).value


@given(curves, shares)
def test_redundancy_is_the_definition(layer, delta):
    found = diffuse_redundancy(layer, delta)
    meets = layer.accuracy >= delta * layer.accuracy[-1] - 1e-12
    assert meets[layer.sizes == found.critical.size].all()
    assert not meets[layer.sizes < found.critical.size].any()
    assert found.critical.reached
    assert 0 <= found.value <= 1 - 1 / 8


def test_a_layer_of_copies_of_one_neuron_is_as_redundant_as_can_be():
    rng, labels = np.random.default_rng(0), np.arange(200) % 2  # equal priors: shrinking the scores decides nothing
    neuron = (rng.standard_normal(200) + 2 * labels)[:, None]
    accumulator = MomentsAccumulator(8, 2)
    accumulator.update(np.repeat(neuron, 8, axis=1), labels)
    val = HeldOut(np.repeat(neuron, 8, axis=1), labels)
    layer = sweep_draws(accumulator.freeze(), val, draw_permutations(8, 4, 0), np.arange(1, 9), (0.1,))
    assert layer.accuracy[-1] > 0.7  # there is something to keep
    assert diffuse_redundancy(layer, 1.0).value == 1 - 1 / 8
    assert diffuse_redundancy(layer, 1.0).spread == 0


def test_a_layer_whose_neurons_are_all_needed_has_none():
    rng, labels = np.random.default_rng(0), np.arange(4000) % 2
    features = rng.standard_normal((4000, 6))
    features[:, 5] += np.where(labels, 4.0, -4.0) - features[:, :5].sum(axis=1)  # only the sum of all six tells
    accumulator = MomentsAccumulator(6, 2)
    accumulator.update(features, labels)
    layer = sweep_draws(
        accumulator.freeze(), HeldOut(features, labels), draw_permutations(6, 6, 0), np.arange(1, 7), (1e-6,)
    )
    assert diffuse_redundancy(layer, 1.0).value == 0


def test_redundancy_needs_the_full_layer_and_a_share():
    with pytest.raises(UsageError, match="up to 4 of 8"):
        diffuse_redundancy(curve([[1, 2, 3]], sizes=(1, 2, 4)), 0.9)
    with pytest.raises(UsageError, match=r"1\.5"):
        diffuse_redundancy(curve([[1, 2, 3, 4]]), 1.5)

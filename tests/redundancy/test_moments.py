"""Moments equal what one pass over everything would give, however the images arrive."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy.moments import Moments, MomentsAccumulator


def images(n=60, d=5, c=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3, rng.integers(0, c, n)


def moments(features, labels, c=3) -> Moments:
    accumulator = MomentsAccumulator(features.shape[1], c)
    accumulator.update(features, labels)
    return accumulator.freeze()


def assert_same(a: Moments, b: Moments, tolerance=1e-10):
    assert a.n_images == b.n_images
    for name in ("mean", "scale", "gram", "cross", "prior"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance, err_msg=name)


def test_they_are_the_products_of_standardised_features():
    features, labels = images()
    found = moments(features, labels)
    X, Y = (features - features.mean(0)) / features.std(0), np.eye(3)[labels]
    np.testing.assert_allclose(found.standardise(features), X, atol=1e-12)
    np.testing.assert_allclose(found.gram, X.T @ X, atol=1e-10)
    np.testing.assert_allclose(found.cross, X.T @ (Y - Y.mean(0)), atol=1e-10)
    np.testing.assert_allclose(found.prior, Y.mean(0))
    assert np.array_equal(found.gram, found.gram.T)


@given(cuts=st.lists(st.integers(0, 60), max_size=5), split=st.integers(0, 6))
def test_any_partition_into_batches_and_shards_gives_the_same(cuts, split):
    features, labels = images()
    edges = [0, *sorted(cuts), 60]
    shards = MomentsAccumulator(5, 3), MomentsAccumulator(5, 3)
    for i, (start, stop) in enumerate(pairwise(edges)):
        shards[i < split].update(features[start:stop], labels[start:stop])
    shards[0].merge(shards[1])
    assert_same(shards[0].freeze(), moments(features, labels))


def test_means_far_larger_than_the_spread_do_not_cancel():
    features, labels = images()
    shifted = features + 1e8
    naive = shifted.T @ shifted - len(shifted) * np.outer(shifted.mean(0), shifted.mean(0))
    assert np.abs(naive / (60 * features.std(0) ** 2) - 1).max() > 0.01  # the danger exists
    a, b = MomentsAccumulator(5, 3), MomentsAccumulator(5, 3)
    a.update(shifted[:20], labels[:20])
    b.update(shifted[20:], labels[20:])
    a.merge(b)
    np.testing.assert_allclose(a.freeze().gram, moments(features, labels).gram, atol=1e-5)
    np.testing.assert_allclose(a.freeze().cross, moments(features, labels).cross, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_neuron_has_scale_1_and_no_moments_over_many_blocks(dtype):
    features = np.random.default_rng(0).standard_normal((9000, 2)).astype(dtype)
    features[:, 1] = 0.1
    found = moments(features, np.arange(9000) % 3)
    assert found.scale[1] == 1
    assert found.gram[1, 1] == 0
    assert not found.cross[1].any()
    assert found.mean[1] == dtype(0.1)


def test_selecting_equals_summing_those_neurons_alone():
    features, labels = images()
    neurons = np.array([4, 0, 3])
    assert_same(moments(features, labels).select(neurons), moments(features[:, neurons], labels))


def test_what_was_handed_out_is_frozen():
    features, labels = images()
    accumulator = MomentsAccumulator(5, 3)
    accumulator.update(features[:30], labels[:30])
    handed_out = accumulator.freeze()
    accumulator.update(features[30:], labels[30:])
    assert_same(handed_out, moments(features[:30], labels[:30]))
    with pytest.raises(ValueError, match="read-only"):
        handed_out.gram[0, 0] = 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_is_named_and_nothing_is_added(value):
    features, labels = images()
    accumulator = MomentsAccumulator(5, 3)
    accumulator.update(features, labels)
    bad = features.copy()
    bad[7, 2] = value
    with pytest.raises(DataError, match="image 7, neuron 2"):
        accumulator.update(bad, labels)
    assert_same(accumulator.freeze(), moments(features, labels))
    with pytest.raises(DataError, match="not finite"):
        accumulator.freeze().standardise(bad)


def test_input_that_cannot_be_used_says_why():
    features, labels = images()
    accumulator = MomentsAccumulator(5, 3)
    with pytest.raises(DataError, match="no images"):
        accumulator.freeze()
    with pytest.raises(DataError, match=r"shape \(60, 4\)"):
        accumulator.update(features[:, :4], labels)
    with pytest.raises(DataError, match="label 3 at image 0"):
        accumulator.update(features, labels * 0 + 3)
    with pytest.raises(DataError, match=r"shape \(59,\)"):
        accumulator.update(features, labels[1:])
    with pytest.raises(UsageError, match="2 classes"):
        accumulator.merge(MomentsAccumulator(5, 2))

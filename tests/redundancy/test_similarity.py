"""Linear CKA from moments is CKA from the images' own kernels, at every size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.errors import DataError
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.similarity import linear_cka
from prune_tool.redundancy.subsets import draw_permutations


def images(n=40, d=9, seed=0):
    """Correlated neurons of very different scales, far from 0."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * np.logspace(-2, 2, d) + 30


def learn(features):
    accumulator = MomentsAccumulator(features.shape[1], 2)
    accumulator.update(features, np.arange(len(features)) % 2)
    return accumulator.freeze()


def kernel_cka(features, neurons):
    """``<HKH, HLH> / (|HKH| |HLH|)`` of the n x n kernels of the images: none of the code under test."""
    n = len(features)
    H = np.eye(n) - 1 / n
    K, L = (H @ part @ part.T @ H for part in (features[:, neurons] - 30, features - 30))
    return (K * L).sum() / (np.linalg.norm(K) * np.linalg.norm(L))


def unit_variance(features):
    return (features - features.mean(0)) / np.where(features.std(0) < 1e-12, 1, features.std(0)) + 30


@settings(max_examples=50)
@given(n=st.integers(2, 30), d=st.integers(1, 12), seed=st.integers(0, 10**6), data=st.data())
def test_every_size_equals_the_kernels_of_the_images(n, d, seed, data):
    features = images(n, d, seed)
    features = features[:, data.draw(st.lists(st.integers(0, d - 1), min_size=d, max_size=d), label="copied from")]
    constant = data.draw(st.lists(st.booleans(), min_size=d, max_size=d).filter(lambda c: not all(c)), label="constant")
    features = np.where(constant, 4.0, features)
    (permutation,) = draw_permutations(d, 1, seed)
    raw = linear_cka(learn(features), permutation)
    standardised = linear_cka(learn(features), permutation, standardised=True)
    for k in range(1, d + 1):
        neurons = permutation[:k]
        if np.array(constant)[neurons].all():
            assert raw[k - 1] == standardised[k - 1] == 0
        else:
            assert raw[k - 1] == pytest.approx(kernel_cka(features, neurons), rel=1e-6)
            assert standardised[k - 1] == pytest.approx(kernel_cka(unit_variance(features), neurons), rel=1e-6)


def test_raw_and_standardised_differ_and_so_do_sizes():
    moments = learn(images())
    raw, standardised = linear_cka(moments, np.arange(9)), linear_cka(moments, np.arange(9), standardised=True)
    assert abs(raw - standardised)[:-1].max() > 0.1
    assert len(np.unique(raw.round(6))) == 9


def test_the_whole_layer_is_1_in_any_order_and_nothing_is_beyond():
    moments = learn(images())
    for permutation in draw_permutations(9, 5, 0):
        cka = linear_cka(moments, permutation)
        assert cka[-1] == pytest.approx(1, abs=1e-12)
        assert (cka > 0).all()
        assert (cka <= 1 + 1e-12).all()


def test_one_unit_for_all_neurons_does_not_matter_and_the_tail_of_a_permutation_does_not():
    features, (permutation,) = images(), draw_permutations(9, 1, 0)
    cka = linear_cka(learn(features), permutation)
    np.testing.assert_allclose(linear_cka(learn(1e-3 * features + 7), permutation), cka, rtol=1e-9)
    np.testing.assert_allclose(linear_cka(learn(features), permutation[:4]), cka[:4], rtol=1e-12)


def test_a_copy_of_the_only_neuron_is_the_layer():
    features = np.repeat(images(d=1), 4, axis=1)
    np.testing.assert_allclose(linear_cka(learn(features), np.arange(4)), 1, rtol=1e-12)


def test_a_layer_that_never_changes_is_refused():
    with pytest.raises(DataError, match="images that differ"):
        linear_cka(learn(np.full((5, 3), 2.0)), np.arange(3))

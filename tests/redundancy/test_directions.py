"""Directions are scored as scikit-learn's PCA and a direct ridge fit would, and end where the whole layer does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from prune_tool.errors import DataError
from prune_tool.redundancy.directions import in_order, principal_basis, project, random_basis
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.redundancy.sweep import sweep, sweep_draws


def task(n=80, d=10, c=3, n_val=150, seed=0):
    """Train and validation features of unequal scales whose classes overlap, with their labels."""
    rng = np.random.default_rng(seed)
    centres, mix = rng.standard_normal((c, d)), rng.standard_normal((d, d)) * np.logspace(-1, 1, d)
    labels, val_labels = rng.integers(0, c, n), rng.integers(0, c, n_val)
    train, val = ((rng.standard_normal((len(y), d)) + centres[y]) @ mix + 5 for y in (labels, val_labels))
    return train, labels, val, val_labels


def learn(train, labels, c=3):
    accumulator = MomentsAccumulator(train.shape[1], c)
    accumulator.update(train, labels)
    return accumulator.freeze()


def hits(train, labels, val, val_labels, ridge, c=3, rounding=1e-9):
    """Correct predictions of scikit-learn's ridge on these features: beyond rounding, and at most."""
    targets = np.eye(c)[labels]
    scores = Ridge(alpha=ridge * len(train), solver="cholesky").fit(train, targets).predict(val)
    rows = np.arange(len(val_labels))
    own = scores[rows, val_labels]
    scores[rows, val_labels] = -np.inf
    margin = own - scores.max(axis=1)
    return (margin > rounding).sum(), (margin >= -rounding).sum()


@settings(max_examples=25)
@given(n=st.integers(12, 40), d=st.integers(2, 10), ridge=st.sampled_from([1e-2, 1.0]), seed=st.integers(0, 10**6))
def test_principal_directions_equal_scikit_learn_at_every_size(n, d, ridge, seed):
    train, labels, val, val_labels = task(n, d, seed=seed, n_val=60)
    moments = learn(train, labels)
    along = project(moments, principal_basis(moments))
    found = sweep(along.moments, HeldOut(along.features(val), val_labels), in_order(d)[0], np.arange(1, d + 1), ridge)
    X = moments.standardise(train)
    for k in range(1, d + 1):
        pca = PCA(k).fit(X)
        least, most = hits(pca.transform(X), labels, pca.transform(moments.standardise(val)), val_labels, ridge)
        assert least <= found[k - 1] <= most, k


@settings(max_examples=15)
@given(d=st.integers(2, 10), seed=st.integers(0, 10**6))
def test_random_directions_and_first_neurons_equal_a_direct_fit_at_every_size(d, seed):
    train, labels, val, val_labels = task(30, d, seed=seed, n_val=60)
    moments, Q, sizes = learn(train, labels), random_basis(d, seed), np.arange(1, d + 1)
    along, (draw,) = project(moments, Q), draw_permutations(d, 1, seed)
    X, V = moments.standardise(train), moments.standardise(val)
    on_random = sweep(along.moments, HeldOut(along.features(val), val_labels), draw, sizes, 0.1)
    on_first = sweep(moments, HeldOut(val, val_labels), in_order(d)[0], sizes, 0.1)
    for k in sizes:
        least, most = hits(X @ Q[:, draw[:k]], labels, V @ Q[:, draw[:k]], val_labels, 0.1)
        assert least <= on_random[k - 1] <= most, k
        least, most = hits(X[:, :k], labels, V[:, :k], val_labels, 0.1)
        assert least <= on_first[k - 1] <= most, k


def test_the_comparison_has_teeth():
    train, labels, val, val_labels = task(n_val=400)
    moments, sizes = learn(train, labels), np.arange(1, 11)
    curves = [sweep(moments, HeldOut(val, val_labels), np.arange(10), sizes, 0.1)]
    for Q in (principal_basis(moments), random_basis(10, 0)):
        along = project(moments, Q)
        curves.append(sweep(along.moments, HeldOut(along.features(val), val_labels), np.arange(10), sizes, 0.1))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (curves[a] != curves[b]).sum() >= 7
    assert curves[0][-1] == curves[1][-1] == curves[2][-1]  # a rotation of the whole layer changes no probe


def test_projected_moments_are_those_of_projected_images():
    train, labels, _, _ = task()
    moments, Q = learn(train, labels), random_basis(10, 1)[:, :4]
    along = project(moments, Q)
    direct = learn(moments.standardise(train) @ Q, labels)
    np.testing.assert_allclose(along.moments.gram, direct.gram * np.outer(direct.scale, direct.scale), atol=1e-10)
    np.testing.assert_allclose(along.moments.cross, direct.cross * direct.scale[:, None], atol=1e-10)
    np.testing.assert_allclose(along.features(train), moments.standardise(train) @ Q, atol=1e-12)
    assert (along.moments.width, along.moments.n_images) == (4, 80)
    np.testing.assert_array_equal(along.moments.prior, moments.prior)


def test_principal_variances_fall_and_are_scikit_learns():
    train, labels, _, _ = task()
    moments = learn(train, labels)
    gram = project(moments, principal_basis(moments)).moments.gram
    theirs = PCA().fit(moments.standardise(train))
    np.testing.assert_allclose(gram, np.diag(theirs.explained_variance_ * 79), atol=1e-10)


def test_directions_that_no_training_image_uses_add_nothing():
    train, labels, val, val_labels = task(n=6, d=10)
    train[:, 3], train[:, 4] = 2.0, train[:, 5]
    moments = learn(train, labels)
    along = project(moments, principal_basis(moments))
    found = sweep(along.moments, HeldOut(along.features(val), val_labels), np.arange(10), np.arange(1, 11), 0.1)
    assert len(set(found[:5])) > 1
    assert (found[4:] == found[4]).all()  # six centred images span five dimensions


def test_a_random_basis_is_orthogonal_repeats_and_is_pinned():
    Q = random_basis(40, 3)
    np.testing.assert_allclose(Q.T @ Q, np.eye(40), atol=1e-12)
    assert np.array_equal(Q, random_basis(40, 3))
    assert abs(Q - random_basis(40, 4)).max() > 0.1
    pinned = [[0.8309133335, -0.3019746914, 0.4673267786], [0.4481845443, -0.1344702080, -0.8837694141]]
    np.testing.assert_allclose(random_basis(3, 0)[:2], pinned, atol=1e-9)


def test_random_bases_are_uniform_over_the_orthogonal_group():
    bases = np.array([random_basis(4, seed) for seed in range(1500)])
    rounding = 5 / np.sqrt(1500)
    np.testing.assert_allclose(bases.mean(axis=0), 0, atol=rounding * 0.5)
    np.testing.assert_allclose((bases**2).mean(axis=0), 1 / 4, atol=rounding * 0.3)
    assert abs(np.linalg.det(bases).mean()) < rounding  # reflections as often as rotations
    assert abs(np.trace(bases, axis1=1, axis2=2).mean()) < rounding  # no direction keeps to a neuron's side


def test_the_first_k_are_a_draw_like_any_other():
    train, labels, val, val_labels = task()
    order = in_order(10)
    assert order.dtype == np.int64
    assert order.tolist() == [list(range(10))]
    curve = sweep_draws(learn(train, labels), HeldOut(val, val_labels), order, np.arange(1, 11), (0.1,))
    assert curve.n_correct.shape == (1, 10)


def test_what_was_handed_out_is_frozen_and_features_are_checked():
    train, labels, val, _ = task()
    along = project(learn(train, labels), random_basis(10, 0))
    with pytest.raises(ValueError, match="read-only"):
        along.basis[0, 0] = 1
    with pytest.raises(DataError, match=r"shape \(150, 9\)"):
        along.features(val[:, :9])

"""The sweep is the exact ridge probe, at every size, whichever way it is computed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy import prefixes
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations, size_grid
from prune_tool.redundancy.sweep import sweep, sweep_draws


def task(n=80, d=12, c=3, n_val=70, seed=0, signal=1.0):
    """Train and validation features whose classes overlap, with their labels."""
    rng = np.random.default_rng(seed)
    centres, mix = signal * rng.standard_normal((c, d)), rng.standard_normal((d, d))
    labels, val_labels = rng.integers(0, c, n), rng.integers(0, c, n_val)
    noise, val_noise = rng.standard_normal((n, d)) @ mix, rng.standard_normal((n_val, d)) @ mix
    return noise + centres[labels] + 5, labels, val_noise + centres[val_labels] + 5, val_labels


def learn(train, labels, c):
    accumulator = MomentsAccumulator(train.shape[1], c)
    accumulator.update(train, labels)
    return accumulator.freeze()


def direct_scores(train, labels, val, neurons, ridge, c):
    """Scores of one ridge probe from the normal equations of its own neurons: none of the code under test."""
    X, Y = train[:, neurons], np.eye(c)[labels]
    scale = np.where(X.std(0) < 1e-12, 1, X.std(0))
    Xs, Vs = (X - X.mean(0)) / scale, (val[:, neurons] - X.mean(0)) / scale
    W = np.linalg.solve(Xs.T @ Xs + ridge * len(X) * np.eye(len(neurons)), Xs.T @ (Y - Y.mean(0)))
    return Vs @ W + Y.mean(0)


def hits(scores, labels, rounding=1e-9):
    """Correct predictions: those beyond rounding, and those together with every image that rounding could decide."""
    own = scores[np.arange(len(labels)), labels]
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    margin = own - others.max(axis=1)
    return (margin > rounding).sum(), (margin >= -rounding).sum()


@given(
    n=st.integers(2, 40),
    d=st.integers(1, 20),
    c=st.integers(2, 5),
    n_val=st.integers(1, 40),
    ridge=st.sampled_from([1e-3, 0.1, 1.0]),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_every_size_equals_a_direct_solve(n, d, c, n_val, ridge, seed, data):
    train, labels, val, val_labels = task(n, d, c, n_val, seed)
    source = data.draw(st.lists(st.integers(0, d - 1), min_size=d, max_size=d), label="copied from")
    constant = data.draw(st.lists(st.booleans(), min_size=d, max_size=d), label="constant")
    train, val = np.where(constant, 4.0, train[:, source]), val[:, source]
    (permutation,) = draw_permutations(d, 1, seed)
    found = sweep(learn(train, labels, c), HeldOut(val, val_labels), permutation, np.arange(1, d + 1), ridge)
    for size in range(1, d + 1):
        least, most = hits(direct_scores(train, labels, val, permutation[:size], ridge, c), val_labels)
        assert least <= found[size - 1] <= most, size


def test_the_comparison_has_teeth():
    train, labels, val, val_labels = task(n_val=400)
    counts = [hits(direct_scores(train, labels, val, np.arange(k), 0.1, 3), val_labels) for k in range(1, 13)]
    assert all(least == most for least, most in counts)
    assert len({least for least, _ in counts}) > 6


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy"])
@pytest.mark.parametrize("few", [True, False])
def test_a_probe_for_each_size_and_all_sizes_at_once_agree(few, metric, monkeypatch):
    """Whichever takes fewer products, and however few images are solved at once."""
    train, labels, val, val_labels = task(n=300, d=60, n_val=500)
    held_out = HeldOut(val, val_labels, metric=metric)
    (permutation,) = draw_permutations(60, 1, 0)
    sizes = np.array([1, 2, 3, 7, 20, 39, 41, 60])
    problem = learn(train, labels, 3), held_out, permutation, sizes, 0.1
    monkeypatch.setattr(prefixes, "_are_few", lambda *_: few)
    found = sweep(*problem)
    monkeypatch.setattr(prefixes, "_are_few", lambda *_: not few)
    monkeypatch.setattr(prefixes, "_SOLVE_IMAGES", 130)
    np.testing.assert_allclose(sweep(*problem), found, rtol=1e-12)
    assert len(set(found.tolist())) > 5


def test_sizes_left_out_and_the_tail_of_the_permutation_change_nothing():
    train, labels, val, val_labels = task()
    moments, (permutation,) = learn(train, labels, 3), draw_permutations(12, 1, 0)
    every = sweep(moments, HeldOut(val, val_labels), permutation, np.arange(1, 13), 0.1)
    some = np.array([2, 3, 7])
    assert np.array_equal(sweep(moments, HeldOut(val, val_labels), permutation, some, 0.1), every[some - 1])
    assert np.array_equal(sweep(moments, HeldOut(val, val_labels), permutation[:7], some, 0.1), every[some - 1])


def test_blocks_of_images_change_nothing(monkeypatch):
    train, labels, val, val_labels = task(n_val=700)
    moments, (permutation,), sizes = learn(train, labels, 3), draw_permutations(12, 1, 0), np.arange(1, 13)
    whole = sweep(moments, HeldOut(val, val_labels), permutation, sizes, 0.1)
    monkeypatch.setattr(prefixes, "_SOLVE_IMAGES", 300)
    monkeypatch.setattr(prefixes, "_SCORES_AT_ONCE", 1)
    assert np.array_equal(sweep(moments, HeldOut(val, val_labels), permutation, sizes, 0.1), whole)


@given(cuts=st.lists(st.integers(0, 80), max_size=4))
@settings(max_examples=30)
def test_any_partition_of_the_training_images_gives_the_same_sweep(cuts):
    train, labels, val, val_labels = task()
    gathered = MomentsAccumulator(12, 3)
    edges = [0, *sorted(cuts), 80]
    for start, stop in pairwise(edges):
        shard = MomentsAccumulator(12, 3)
        shard.update(train[start:stop], labels[start:stop])
        gathered.merge(shard)
    (permutation,), sizes = draw_permutations(12, 1, 0), np.arange(1, 13)
    whole = sweep(learn(train, labels, 3), HeldOut(val, val_labels), permutation, sizes, 0.1)
    assert np.array_equal(sweep(gathered.freeze(), HeldOut(val, val_labels), permutation, sizes, 0.1), whole)


def test_ties_go_to_the_lowest_class():
    labels = np.arange(30) % 3  # equal priors
    train, val = np.full((30, 4), 2.0), np.random.default_rng(0).standard_normal((9, 4))
    for truth, expected in ((0, 9), (1, 0), (2, 0)):
        found = sweep(learn(train, labels, 3), HeldOut(val, np.full(9, truth)), np.arange(4), np.arange(1, 5), 0.1)
        assert (found == expected).all()


def test_a_class_without_training_images_is_never_predicted():
    train, labels, val, val_labels = task(c=2)
    found = sweep(
        learn(train, labels, 3), HeldOut(val, np.full_like(val_labels, 2)), np.arange(12), np.arange(1, 13), 0.1
    )
    assert not found.any()


def test_the_same_input_gives_the_same_curve_bit_for_bit():
    train, labels, val, val_labels = task()
    curves = []
    for _ in range(2):
        draws = draw_permutations(12, 5, seed=4)
        curves.append(
            sweep_draws(learn(train, labels, 3), HeldOut(val, val_labels), draws, np.arange(1, 13), (1e-3, 1.0))
        )
    assert np.array_equal(curves[0].n_correct, curves[1].n_correct)
    assert np.array_equal(curves[0].ridge, curves[1].ridge)


def test_each_size_takes_the_strength_that_the_pilots_prefer_and_ties_go_to_the_stronger():
    train, labels, val, val_labels = task(n=15, d=20, n_val=40)
    moments, draws, sizes, grid = learn(train, labels, 3), draw_permutations(20, 6, 1), size_grid(20, 8), (1e-3, 1, 0.1)
    curve = sweep_draws(moments, HeldOut(val, val_labels), draws, sizes, grid)
    by_strength = {
        r: np.array([sweep(moments, HeldOut(val, val_labels), draw, sizes, r) for draw in draws]) for r in grid
    }
    for i, strength in enumerate(curve.ridge):
        pooled = {r: counts[:2, i].sum() for r, counts in by_strength.items()}
        assert strength == max(r for r in grid if pooled[r] == max(pooled.values()))
        assert np.array_equal(curve.n_correct[:, i], by_strength[strength][:, i])
    assert len(set(curve.ridge)) > 1


def test_a_curve_is_the_mean_and_the_spread_over_draws():
    train, labels, val, val_labels = task()
    curve = sweep_draws(
        learn(train, labels, 3), HeldOut(val, val_labels), draw_permutations(12, 4, 0), np.arange(1, 13), (0.1,)
    )
    accuracy = curve.n_correct / 70
    np.testing.assert_allclose(curve.accuracy, accuracy.mean(0), atol=1e-15)
    np.testing.assert_allclose(curve.spread, accuracy.std(0, ddof=1), atol=1e-15)
    assert curve.spread[:6].max() > 0
    assert np.ptp(curve.n_correct[:, -1]) == 0  # the full layer is the same neurons in every draw
    single = sweep_draws(
        learn(train, labels, 3), HeldOut(val, val_labels), draw_permutations(12, 1, 0), np.array([12]), (0.1,)
    )
    assert single.spread.tolist() == [0.0]


@pytest.mark.parametrize("sizes", [[], [0, 1], [2, 2], [3, 1], [13]])
def test_sizes_that_make_no_sense_are_refused(sizes):
    train, labels, val, val_labels = task()
    with pytest.raises(UsageError, match="ascending sizes from 1 to 12"):
        sweep(learn(train, labels, 3), HeldOut(val, val_labels), np.arange(12), np.array(sizes, np.int64), 0.1)


def test_other_input_that_makes_no_sense_is_refused():
    train, labels, val, val_labels = task()
    moments, sizes = learn(train, labels, 3), np.arange(1, 13)
    with pytest.raises(UsageError, match="not positive"):
        sweep(moments, HeldOut(val, val_labels), np.arange(12), sizes, 0.0)
    with pytest.raises(DataError, match="Hold out"):
        sweep(moments, HeldOut(val[:0], val_labels[:0]), np.arange(12), sizes, 0.1)
    with pytest.raises(DataError, match="label 9"):
        sweep(moments, HeldOut(val, val_labels * 0 + 9), np.arange(12), sizes, 0.1)
    copies = learn(np.repeat(train[:, :1], 4, axis=1), labels, 3)
    with pytest.raises(DataError, match="stronger ridge"):
        sweep(copies, HeldOut(val[:, :4], val_labels), np.arange(4), np.arange(1, 5), 1e-30)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_counts():
    train, labels, val, val_labels = task(n=400, d=64, n_val=900)
    moments, draws, sizes = learn(train, labels, 3), draw_permutations(64, 3, 0), np.arange(1, 65)
    curves = [
        sweep_draws(moments, HeldOut(val, val_labels), draws, sizes, (1e-2, 1.0), device) for device in ("cpu", "cuda")
    ]
    assert np.array_equal(curves[0].n_correct, curves[1].n_correct)

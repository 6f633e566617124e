"""Greedy picks are greedy: at every step no other neuron would have lowered the probe's error more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.errors import UsageError
from prune_tool.redundancy import pivoted
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.pivoted import pivoted_order
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.redundancy.sweep import sweep


def task(n=120, d=12, c=3, seed=0):
    """Correlated neurons, some telling of the class and some not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, n)
    centres = rng.standard_normal((c, d)) * (rng.random(d) < 0.4)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * 0.3 + centres[labels] + 5, labels


def learn(features, labels, c=3):
    accumulator = MomentsAccumulator(features.shape[1], c)
    accumulator.update(features, labels)
    return accumulator.freeze()


def error(features, labels, neurons, ridge, c=3):
    """Penalised squared error of the ridge probe, fitted by least squares: none of the code under test."""
    X, Y = features[:, neurons], np.eye(c)[labels]
    X = (X - X.mean(0)) / np.where(X.std(0) < 1e-12, 1, X.std(0))
    A = np.vstack([X, np.sqrt(ridge * len(X)) * np.eye(len(neurons))])
    Y = np.vstack([Y - Y.mean(0), np.zeros((len(neurons), c))])
    return np.square(Y - A @ np.linalg.lstsq(A, Y, rcond=None)[0]).sum()


@settings(max_examples=40)
@given(
    n=st.integers(3, 40),
    d=st.integers(1, 6),
    copied=st.lists(st.integers(0, 5), max_size=2),
    n_constant=st.integers(0, 2),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
    panel=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_no_other_neuron_would_have_lowered_the_error_more(n, d, copied, n_constant, ridge, panel, seed):
    features, labels = task(n, d, seed=seed)
    features = np.hstack([np.full((n, n_constant), 4.0), features, features[:, [i % d for i in copied]]])
    d = features.shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pivoted, "_PANEL", panel)
        order = pivoted_order(learn(features, labels), d, ridge)
    assert sorted(order) == list(range(d))
    for k in range(d):
        others = [error(features, labels, np.append(order[:k], j), ridge) for j in order[k:]]
        assert others[0] <= min(others) + 1e-9 * n


def test_the_property_has_teeth():
    features, labels = task()
    order = pivoted_order(learn(features, labels), 12, 1e-3)
    alone = [error(features, labels, np.array([j]), 1e-3) for j in range(12)]
    assert sorted(alone)[1] > alone[order[0]] + 0.1
    assert (order != np.argsort(alone)).sum() >= 6  # the best alone are not the best together


def test_panels_change_nothing(monkeypatch):
    features, labels = task(d=40)
    moments = learn(features, labels)
    whole = pivoted_order(moments, 40, 1e-3)
    for panel in (1, 7):
        monkeypatch.setattr(pivoted, "_PANEL", panel)
        assert np.array_equal(pivoted_order(moments, 40, 1e-3), whole)


def test_fewer_picks_are_a_prefix_and_the_order_repeats():
    moments = learn(*task(d=80))
    whole = pivoted_order(moments, 80, 1e-3)
    assert whole.dtype == np.int64
    assert np.array_equal(whole, pivoted_order(moments, 80, 1e-3))
    for n_picks in (1, 5, 64, 65):
        assert np.array_equal(pivoted_order(moments, n_picks, 1e-3), whole[:n_picks])


def test_the_numbering_of_the_neurons_does_not_matter():
    features, labels = task()
    (renumbered,) = draw_permutations(12, 1, 0)
    order = pivoted_order(learn(features[:, renumbered], labels), 12, 1e-3)
    assert np.array_equal(renumbered[order], pivoted_order(learn(features, labels), 12, 1e-3))


@pytest.mark.parametrize("ridge", [1e-3, 1e-6, 1e-9, 1e-12, 1e-30])
@pytest.mark.parametrize("seed", range(6))
def test_copies_come_after_all_that_is_new_and_constants_last(ridge, seed):
    features, labels = task(seed=seed)
    doubled = np.hstack([features, features, np.full((120, 2), 3.0)])
    order = pivoted_order(learn(doubled, labels), 26, ridge)
    assert np.array_equal(order[:12] % 12, pivoted_order(learn(features, labels), 12, ridge))
    assert sorted(order[12:24]) == sorted((order[:12] + 12) % 24)
    assert order[24:].tolist() == [24, 25]


def test_equals_go_to_the_lowest():
    features = np.array([[1.0, -1.0, 1.0, 0.0], [-1.0, 1.0, -1.0, 0.0]] * 4)
    assert pivoted_order(learn(features, np.arange(8) % 2, 2), 4, 0.1).tolist() == [0, 1, 2, 3]


def test_greedy_neurons_beat_random_ones_where_few_matter():
    features, labels = task(n=600, d=60, seed=2)
    train, val = slice(300), slice(300, None)
    moments, sizes = learn(features[train], labels[train]), np.array([3, 6, 12])
    greedy = sweep(moments, HeldOut(features[val], labels[val]), pivoted_order(moments, 12, 1e-2), sizes, 1e-2)
    for draw in draw_permutations(60, 10, 0):
        assert (greedy > sweep(moments, HeldOut(features[val], labels[val]), draw, sizes, 1e-2)).all()


@pytest.mark.parametrize(("n_picks", "ridge"), [(0, 0.1), (13, 0.1), (3, 0.0), (3, -1.0), (3, np.nan)])
def test_picks_that_make_no_sense_are_refused(n_picks, ridge):
    with pytest.raises(UsageError, match="1 to 12 picks"):
        pivoted_order(learn(*task()), n_picks, ridge)

"""Balanced accuracy is scikit-learn's, in scores, curves and the probe that ships."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from prune_tool.errors import DataError
from prune_tool.redundancy.held_out import HeldOut, image_weights, score_of
from prune_tool.redundancy.logistic import choose_logistic, fit_logistic
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.redundancy.sweep import sweep, sweep_draws

SHARES = (0.9, 0.07, 0.03)
BALANCED = "balanced-accuracy"


def imbalanced(n, seed, d=10):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=SHARES)
    centres = np.random.default_rng(7).standard_normal((3, d))
    return rng.standard_normal((n, d)) * 1.5 + centres[labels], labels


def test_the_score_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, predicted = rng.choice(3, 500, p=SHARES), rng.integers(0, 3, 500)
    found = score_of(labels, predicted, BALANCED)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-12)
    assert found.n_images == 500
    assert score_of(labels, predicted, "accuracy").n_correct == (labels == predicted).sum()


def test_every_class_weighs_the_same_and_all_images_together_their_number():
    _, labels = imbalanced(400, 1)
    weights = image_weights(labels)
    by_class = [weights[labels == label].sum() for label in range(3)]
    assert by_class == pytest.approx([400 / 3] * 3)


def test_every_size_of_a_balanced_sweep_equals_a_direct_solve():
    train, labels = imbalanced(600, 2)
    val, val_labels = imbalanced(500, 3)
    accumulator = MomentsAccumulator(10, 3)
    accumulator.update(train, labels)
    (permutation,) = draw_permutations(10, 1, 0)
    sizes = np.arange(1, 11)
    found = sweep(accumulator.freeze(), HeldOut(val, val_labels, BALANCED), permutation, sizes, 0.1)
    Y = np.eye(3)[labels]
    for size in sizes:
        own = permutation[:size]
        mean, scale = train[:, own].mean(0), train[:, own].std(0)
        X, V = (train[:, own] - mean) / scale, (val[:, own] - mean) / scale
        W = np.linalg.solve(X.T @ X + 0.1 * 600 * np.eye(size), X.T @ (Y - Y.mean(0)))
        predicted = ((V @ W + Y.mean(0)) / Y.mean(0)).argmax(1)
        expected = balanced_accuracy_score(val_labels, predicted)
        assert found[size - 1] / 500 == pytest.approx(expected, abs=1e-9), size


def test_correcting_for_the_classes_shares_is_worth_it():
    """The comparison has teeth: without the correction rare classes are hardly ever predicted."""
    train, labels = imbalanced(2000, 4)
    val = HeldOut(*imbalanced(2000, 5), BALANCED)
    plain = fit_logistic(train, labels, 3, 1e-3)
    chosen = choose_logistic(train, labels, val, 3, (1e-3,))
    assert chosen.score(val).accuracy > plain.score(val).accuracy + 0.1
    assert chosen.score(val) == plain.for_equal_classes(np.bincount(labels) / 2000).score(val)
    reference = LogisticRegression(C=1e3, class_weight="balanced").fit(train, labels)
    weighted = balanced_accuracy_score(val.labels, reference.predict(val.features))
    assert chosen.score(val).accuracy > weighted - 0.02


def test_a_class_that_training_lacks_stays_unpredicted():
    train, labels = imbalanced(300, 6)
    val = HeldOut(*imbalanced(200, 7), BALANCED)
    probe = choose_logistic(train, labels, val, 5, (1e-2,))
    assert set(probe.predict(val.features)) <= {0, 1, 2}
    accumulator = MomentsAccumulator(10, 5)
    accumulator.update(train, labels)
    curve = sweep_draws(accumulator.freeze(), val, draw_permutations(10, 3, 0), np.array([1, 10]), (0.1,))
    assert np.isfinite(curve.accuracy).all()
    assert curve.accuracy[-1] > 0.5


def test_labels_that_do_not_fit_are_an_error():
    train, labels = imbalanced(50, 8)
    probe = fit_logistic(train, labels, 3, 1e-2)
    with pytest.raises(DataError, match="labels"):
        probe.score(HeldOut(train, labels[:-1]))

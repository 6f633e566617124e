"""The logistic probe is the minimiser: an independent library and an independent gradient agree."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy import softmax
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.logistic import choose_logistic, fit_logistic
from prune_tool.redundancy.softmax import GRADIENT_TOLERANCE


def task(n=150, d=10, c=4, seed=0):
    """Overlapping classes on correlated neurons of very different scales."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, n)
    features = rng.standard_normal((n, d)) + rng.standard_normal((c, d))[labels]
    features = features @ rng.standard_normal((d, d)) * np.logspace(-3, 3, d) + 10
    return features, labels


def standardised(features):
    scale = np.where(features.std(0) < 1e-12, 1, features.std(0))
    return (features - features.mean(0)) / scale, scale


def objective(features, labels, weight, bias, strength):
    """The objective of raw-coordinate weights, and its autograd gradient in standardised ones."""
    X, scale = standardised(features)
    W = torch.tensor(weight * scale, requires_grad=True)
    b = torch.tensor(bias + weight @ features.mean(0), requires_grad=True)
    loss = torch.nn.functional.cross_entropy(torch.tensor(X) @ W.T + b, torch.tensor(labels))
    loss = loss + strength / 2 * W.square().sum()
    loss.backward()
    return loss.item(), max(W.grad.abs().max().item(), b.grad.abs().max().item())


SHAPES = {
    "plain": task(),
    "fewer images than neurons": task(n=20, d=40),
    "constant and duplicated neurons": (
        np.hstack([task()[0], np.full((150, 1), 0.3), task()[0][:, [0, 0, 5]]]),
        task()[1],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_it_is_the_minimiser_that_scikit_learn_finds(shape, strength):
    features, labels = SHAPES[shape]
    probe = fit_logistic(features, labels, 4, strength)
    X, scale = standardised(features)
    theirs = LogisticRegression(C=1 / (strength * len(X)), tol=1e-9, max_iter=20_000).fit(X, labels)
    weight = theirs.coef_ / scale
    expected, _ = objective(features, labels, weight, theirs.intercept_ - weight @ features.mean(0), strength)
    found, _ = objective(features, labels, probe.weight, probe.bias, strength)
    # Strong convexity: where no entry of the gradient exceeds the tolerance, this much may be left of the objective.
    left = probe.weight.size * GRADIENT_TOLERANCE**2 / (2 * strength)
    assert abs(found - expected) <= max(1e-6 * expected, left)
    probabilities = torch.tensor(probe.logits(features)).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, theirs.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [1e-4, 1e-2])
def test_the_gradient_there_is_small_and_is_the_one_reported(shape, strength):
    features, labels = SHAPES[shape]
    probe = fit_logistic(features, labels, 4, strength)
    _, gradient_norm = objective(features, labels, probe.weight, probe.bias, strength)
    _, at_zero = objective(features, labels, 0 * probe.weight, 0 * probe.bias, strength)
    assert at_zero > 1e-2  # there was a way to go
    assert gradient_norm <= GRADIENT_TOLERANCE * 1.001
    assert gradient_norm == pytest.approx(probe.gradient_norm, abs=1e-10)
    assert probe.converged


def test_constant_neurons_weigh_nothing_and_copies_the_same():
    features, labels = SHAPES["constant and duplicated neurons"]
    strength = 1e-3
    weight = fit_logistic(features, labels, 4, strength).weight
    assert not weight[:, 10].any()
    W = weight * features.std(axis=0)  # gradients of copies differ by strength times the difference of their weights
    np.testing.assert_allclose(W[:, [0, 0, 5]], W[:, 11:], rtol=0, atol=2 * GRADIENT_TOLERANCE / strength)
    assert np.abs(W[:, 11:]).max() > 0.1


def test_a_class_without_training_images_is_never_predicted_and_changes_nothing():
    features, labels = task(c=3)
    moved = np.array([0, 2, 4])[labels]
    probe, plain = fit_logistic(features, moved, 5, 1e-3), fit_logistic(features, labels, 3, 1e-3)
    assert set(probe.predict(100 * features)) <= {0, 2, 4}
    np.testing.assert_allclose(probe.logits(features)[:, [0, 2, 4]], plain.logits(features), atol=1e-9)
    sunk = dataclasses.replace(probe, bias=probe.bias - 1e6)  # as good a start: equal shifts cancel in the softmax
    assert set(fit_logistic(features, moved, 5, 1e-3, start=sunk).predict(features)) <= {0, 2, 4}
    assert np.isfinite(probe.logits(features)).all()
    assert (probe.logits(features)[:, [1, 3]] == -1e4).all()


def test_a_single_class_is_always_predicted():
    features, labels = task()
    probe = fit_logistic(features, np.full_like(labels, 2), 4, 1e-2)
    assert (probe.predict(features) == 2).all()
    assert probe.converged


def test_units_of_the_neurons_do_not_matter():
    features, labels = task()
    plain, moved = fit_logistic(features, labels, 4, 1e-2), fit_logistic(1000 * features - 7, labels, 4, 1e-2)
    np.testing.assert_allclose(plain.logits(features), moved.logits(1000 * features - 7), atol=1e-3)


def test_blocks_of_images_change_nothing(monkeypatch):
    features, labels = task()
    monkeypatch.setattr(softmax, "GRADIENT_TOLERANCE", 1e-9)  # float32 rounds otherwise, and ends elsewhere within it
    whole = fit_logistic(features, labels, 4, 1e-2)
    monkeypatch.setattr(softmax, "_ROWS_PER_BLOCK", 64)
    np.testing.assert_allclose(
        fit_logistic(features, labels, 4, 1e-2).logits(features), whole.logits(features), atol=1e-6
    )


def test_float32_leads_most_of_the_way_and_float64_ends_it(monkeypatch):
    precisions, evaluate = [], softmax._objective

    def watched(X, *arguments):
        precisions.append(X.dtype)
        return evaluate(X, *arguments)

    monkeypatch.setattr(softmax, "_objective", watched)
    assert fit_logistic(*task(n=2000, d=30), 4, 1e-2).converged
    n_single = precisions.count(torch.float32)
    assert precisions == [torch.float32] * n_single + [torch.float64] * (len(precisions) - n_single)
    assert n_single > 2 * (len(precisions) - n_single) > 0


def test_float32_is_left_out_where_images_do_not_outnumber_neurons():
    features, labels = task(n=40, d=40)
    assert softmax.prepare(features, labels, 4).single is None
    assert softmax.prepare(features[:, 1:], labels, 4).single is not None


def test_columns_picked_from_features_are_laid_out_by_image_again():
    features, labels = task()
    picked = features[:, np.arange(10)[::-1]]
    assert not picked.flags.c_contiguous  # as NumPy leaves them: column by column
    problem = softmax.prepare(picked, labels, 4)
    assert problem.X.is_contiguous()
    assert problem.single.is_contiguous()


def test_where_float32_sees_nothing_float64_goes_on():
    """Weights in the thousands on nearly dependent neurons: their logits cancel beyond float32."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((60, 1))
    features = base + 1e-4 * rng.standard_normal((60, 8))
    probe = fit_logistic(features, (features[:, 0] > features[:, 1]).astype(np.int64), 2, 1e-8)
    assert np.abs(probe.weight * features.std(axis=0)).max() > 1e3
    assert probe.converged


def test_a_start_changes_the_time_and_not_the_result():
    features, labels = task()
    cold = fit_logistic(features, labels, 4, 1e-2)
    warm = fit_logistic(features, labels, 4, 1e-2, start=cold)
    far = fit_logistic(features, labels, 4, 1e-2, start=fit_logistic(features, (labels + 1) % 4, 4, 1e-4))
    assert 4 * warm.n_iterations < cold.n_iterations
    np.testing.assert_allclose(warm.logits(features), cold.logits(features), atol=1e-3)
    np.testing.assert_allclose(far.logits(features), cold.logits(features), atol=1e-3)


def test_the_same_input_gives_the_same_probe_bit_for_bit():
    features, labels = task()
    a, b = (fit_logistic(features, labels, 4, 1e-2) for _ in range(2))
    assert np.array_equal(a.weight, b.weight)
    assert np.array_equal(a.bias, b.bias)


def test_a_fit_cut_short_says_that_it_has_not_converged(monkeypatch):
    monkeypatch.setattr(softmax, "_MAX_ITERATIONS", 2)
    probe = fit_logistic(*task(), 4, 1e-4)
    assert not probe.converged


def test_the_strength_with_most_correct_on_validation_is_chosen_ties_to_the_stronger():
    features, labels = task(n=400, d=30)
    train, val = slice(60), slice(60, None)
    strengths = (1e-4, 1e-1, 1e-2, 10.0)
    held_out = HeldOut(features[val], labels[val])
    chosen = choose_logistic(features[train], labels[train], held_out, 4, strengths)
    each = {s: fit_logistic(features[train], labels[train], 4, s).score(held_out) for s in strengths}
    most = max(score.n_correct for score in each.values())
    assert min(score.n_correct for score in each.values()) < most
    assert chosen.strength == max(s for s, score in each.items() if score.n_correct == most)
    assert chosen.score(held_out).n_correct == most
    tied = choose_logistic(features[train], labels[train], HeldOut(features[:0], labels[:0]), 4, strengths)
    assert tied.strength == 10.0


def test_float32_features_give_the_probe_of_the_same_values():
    features, labels = task()
    single = features.astype(np.float32)
    a, b = fit_logistic(single, labels, 4, 1e-2), fit_logistic(single.astype(np.float64), labels, 4, 1e-2)
    np.testing.assert_allclose(a.weight, b.weight, rtol=1e-9)
    assert a.logits(single).dtype == np.float64


def test_a_score_counts_the_predictions():
    features, labels = task()
    probe = fit_logistic(features, labels, 4, 1e-2)
    score = probe.score(HeldOut(features, labels))
    assert score.n_images == 150
    assert score.n_correct == (probe.predict(features) == labels).sum() > 100


def test_input_that_cannot_be_used_is_refused():
    features, labels = task()
    with pytest.raises(UsageError, match="not positive"):
        fit_logistic(features, labels, 4, 0.0)
    with pytest.raises(UsageError, match="at least one strength"):
        choose_logistic(features, labels, HeldOut(features, labels), 4, ())
    with pytest.raises(DataError, match="no images"):
        fit_logistic(features[:0], labels[:0], 4, 1e-2)
    with pytest.raises(DataError, match="label 3"):
        fit_logistic(features, labels, 3, 1e-2)
    with pytest.raises(DataError, match="dtype"):
        fit_logistic(features.astype(np.int64), labels, 4, 1e-2)
    with pytest.raises(DataError, match="stronger penalty"):
        fit_logistic(np.repeat(features[:, :1], 4, axis=1), labels, 4, 1e-30)

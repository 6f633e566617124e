"""Scores from fewer dimensions: the error told is the error made, the best maps are best, all dimensions are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prune_tool.errors import UsageError
from prune_tool.redundancy.joint import JointAccumulator
from prune_tool.redundancy.scores import Maps, ScoreReconstruction

HEADS, D, N = 3, 6, 400
RIDGE = 1e-9
IMPORTANCE = np.array([1.0, 2.0, 0.5])


def moments_of(x, x_hat=None):
    accumulator = JointAccumulator(x.shape[1])
    accumulator.update(torch.from_numpy(x), None if x_hat is None else torch.from_numpy(x_hat))
    return accumulator.freeze()


def drawn(seed=0, changed=False):
    """Queries with a mean, keys without one, and both in a network that has changed."""
    rng = np.random.default_rng(seed)
    w = HEADS * D
    q, k = (rng.standard_normal((N, w)) @ rng.standard_normal((w, w)) for _ in range(2))
    q += rng.standard_normal(w)
    q_hat, k_hat = (x + 0.3 * rng.standard_normal((N, w)) @ rng.standard_normal((w, w)) for x in (q, k))
    k, k_hat = k - k.mean(0), k_hat - k_hat.mean(0)
    return (q, q_hat, k, k_hat) if changed else (q, q, k, k)


def reconstruction(q, q_hat, k, k_hat, ridge=RIDGE):
    same = q is q_hat
    query, key = (moments_of(x, None if same else x_hat) for x, x_hat in ((q, q_hat), (k, k_hat)))
    return ScoreReconstruction(query, key, IMPORTANCE, ridge)


def error(q, q_hat, k, k_hat, maps: Maps):
    """Mean squared error over all pairs of a query and a key; none of the code under test."""
    total = 0.0
    for head, counts in enumerate(IMPORTANCE):
        own = slice(head * D, (head + 1) * D)
        found = (q_hat[:, own] @ maps.query[head].numpy().T) @ (k_hat[:, own] @ maps.key[head].numpy().T).T
        total += counts * np.mean((q[:, own] @ k[:, own].T - found) ** 2)
    return total


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("strategy", ["pivoted", "random"])
@pytest.mark.parametrize("fold", [True, False])
def test_the_error_told_is_the_error_made(strategy, fold, changed):
    values = drawn(changed=changed)
    problem = reconstruction(*values)
    curve = problem.error_curve(strategy, fold=fold)
    for n in range(1, D + 1):
        made = error(*values, problem.maps(n, strategy, fold=fold))
        assert curve.absolute[n] == pytest.approx(made, rel=1e-6, abs=1e-6 * curve.total)
    assert curve.absolute[0] == curve.total == pytest.approx(error(*values, problem.maps(0)))


def test_all_dimensions_of_an_unchanged_network_are_left_as_they_are():
    problem = reconstruction(*drawn(), ridge=0.1)
    for fold in (True, False):
        for strategy in ("pivoted", "random"):
            M = problem.maps(D, strategy, fold=fold).product
            torch.testing.assert_close(M, torch.eye(D).double().expand(HEADS, D, D))
    assert problem.error_curve().absolute[D] == pytest.approx(0, abs=1e-9 * problem.total)


def test_the_best_maps_are_best():
    """No other of that rank does better: not those drawn, not those nearby, and none without folding."""
    values = drawn(changed=True)
    problem = reconstruction(*values)
    best = problem.error_curve().absolute
    assert np.all(np.diff(best) < 0)
    for strategy, fold in (("pivoted", False), ("random", True), ("random", False)):
        assert np.all(best <= problem.error_curve(strategy, fold=fold).absolute + 1e-9 * problem.total)
    assert np.all(problem.error_curve("random").absolute <= problem.error_curve("random", fold=False).absolute + 1e-9)
    maps = problem.maps(3)
    for seed in range(5):
        noise = torch.randn(2, HEADS, 3, D, generator=torch.Generator().manual_seed(seed)).double()
        near = Maps(query=maps.query + 0.02 * noise[0], key=maps.key + 0.02 * noise[1])
        assert error(*values, near) > best[3]


def test_the_target_is_the_original_network():
    """Calibrated on the changed network alone, it stays as far from the original as it is."""
    values = drawn(changed=True)
    _, q_hat, _, k_hat = values
    mended = reconstruction(*values).maps(D)
    alone = reconstruction(q_hat, q_hat, k_hat, k_hat).maps(D)
    assert error(*values, mended) < 0.8 * error(*values, alone)


def test_dimensions_that_do_not_vary_cost_nothing_and_break_nothing():
    q, _, k, _ = drawn()
    q[:, ::2] = 0  # every other dimension of every head
    problem = reconstruction(q, q, k, k)
    assert problem.error_curve().relative[D // 2] < 1e-6
    assert problem.maps(D).query.isfinite().all()
    nothing = reconstruction(0 * q, 0 * q, 0 * k, 0 * k)
    assert nothing.maps(2).key.isfinite().all()


def test_what_does_not_fit_is_refused():
    q, _, k, _ = drawn()
    for width, ridge in ((HEADS * D - HEADS, RIDGE), (HEADS * D, 0.0)):
        with pytest.raises(UsageError, match="scores of 3 heads"):
            ScoreReconstruction(moments_of(q), moments_of(np.ascontiguousarray(k[:, :width])), IMPORTANCE, ridge)

"""Folding is least squares: exact where it can be, never worse than not folding, and its curve tells the error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy.cross_fit import Elsewhere, cross_fit
from prune_tool.redundancy.joint import JointAccumulator
from prune_tool.redundancy.layer import Layer
from prune_tool.redundancy.reconstruction import Reconstruction

RIDGE = 1e-6


def moments_of(x, x_hat=None):
    accumulator = JointAccumulator(x.shape[1])
    for start in range(0, len(x), 7):
        rows = slice(start, start + 7)
        accumulator.update(torch.from_numpy(x[rows]), None if x_hat is None else torch.from_numpy(x_hat[rows]))
    return accumulator.freeze()


def reading(weight, n_groups=1, n_parts=None, importance=None):
    return Layer(
        weight=weight,
        n_groups=n_groups,
        n_parts=n_parts or n_groups,
        importance=np.ones(len(weight)) if importance is None else importance,
    )


def reconstruction(moments, weight, *, ridge, **options):
    return Reconstruction(reading(weight, **options), moments, ridge)


def layer(n=60, groups=1, per_group=5, out=4, kernel=(), changed=False, seed=0):
    """Correlated inputs, those of a changed network, and a weight."""
    rng = np.random.default_rng(seed)
    w = groups * per_group
    x = rng.standard_normal((n, w)) @ rng.standard_normal((w, w)) + rng.standard_normal(w)
    x_hat = x + 0.3 * rng.standard_normal((n, w)) @ rng.standard_normal((w, w)) if changed else None
    return x, x_hat, rng.standard_normal((groups * out, per_group, *kernel))


def per_tap(x, weight, groups=1):
    """What each tap answers to rows ``x``, (n, out, taps): none of the code under test."""
    taps = weight.reshape(groups, -1, *weight.shape[1:2], int(np.prod(weight.shape[2:], initial=1)))
    grouped = x.reshape(len(x), groups, -1)
    return np.einsum("ngc,gocu->ngou", grouped, taps).reshape(len(x), -1, taps.shape[-1])


def error(x, x_hat, weight, folded, kept, groups=1):
    """Mean squared error of the narrowed layer on the rows, summed over outputs and taps."""
    shift = folded.shift.reshape(1, len(weight), -1)
    found = per_tap((x if x_hat is None else x_hat)[:, kept], folded.weight, groups) + shift
    return np.square(found - per_tap(x, weight, groups)).sum() / len(x)


def with_noise(x, x_hat, noise):
    """Rows whose moments are exactly those of ``x`` and ``x_hat`` with independent noise on each neuron, the same."""
    n, w = x.shape
    block = np.sqrt(noise * (n + 2 * w) / 2) * np.vstack([np.eye(w), -np.eye(w)])
    scale = np.sqrt((n + 2 * w) / n)
    hat = x if x_hat is None else x_hat
    return [np.vstack([scale * (a - a.mean(0)), block]) for a in (x, hat)]


LAYERS = {
    "n": st.integers(4, 40),
    "groups": st.sampled_from([1, 1, 2, 3]),
    "per_group": st.integers(1, 5),
    "out": st.integers(1, 7),
    "kernel": st.sampled_from([(), (1, 1), (3,), (2, 3)]),
    "changed": st.booleans(),
    "seed": st.integers(0, 10**6),
}


@settings(deadline=None, max_examples=60)
@given(**LAYERS)
def test_the_curve_is_brute_force_least_squares(n, groups, per_group, out, kernel, changed, seed):
    x, x_hat, weight = layer(n, groups, per_group, out, kernel, changed, seed)
    problem = reconstruction(moments_of(x, x_hat), weight, n_groups=groups, ridge=1e-3)
    order = problem.order("random", seed=seed)
    curve = problem.error_curve(order)
    noisy, noisy_hat = with_noise(x, x_hat, problem.noise)
    target = per_tap(noisy, weight, groups).reshape(len(noisy), groups, -1)
    for k in range(0, problem.layer.width + 1, groups):
        kept = np.sort(order[:k])
        left = 0.0
        for group in range(groups):
            own = noisy_hat[:, kept[kept * groups // problem.layer.width == group]]
            solved = np.linalg.lstsq(own, target[:, group], rcond=None)[0]
            left += np.square(target[:, group] - own @ solved).sum() / len(noisy)
        assert curve.absolute[k] == pytest.approx(left, rel=1e-6, abs=1e-9 * (1 + curve.absolute[0]))


@settings(deadline=None, max_examples=60)
@given(**LAYERS)
def test_errors_fall_and_folding_is_never_worse(n, groups, per_group, out, kernel, changed, seed):
    x, x_hat, weight = layer(n, groups, per_group, out, kernel, changed, seed)
    problem = reconstruction(moments_of(x, x_hat), weight, n_groups=groups, ridge=1e-2)
    for strategy in ("random", "pivoted"):
        order = problem.order(strategy, seed=seed)
        assert sorted(order) == list(range(problem.layer.width))
        curve, dropped = problem.error_curve(order), problem.error_curve(order, fold=False)
        slack = 1e-9 * (1 + curve.absolute[0])
        assert (np.diff(curve.absolute) <= slack).all()
        for k in range(groups, problem.layer.width + 1, groups):
            kept = np.sort(order[:k])
            folded = error(x, x_hat, weight, problem.fold(kept), kept, groups)
            unfolded = error(x, x_hat, weight, problem.drop(kept), kept, groups)
            assert folded <= unfolded + slack
            assert folded <= curve.absolute[k] + slack
            assert unfolded == pytest.approx(dropped.absolute[k], rel=1e-6, abs=slack)


@settings(deadline=None, max_examples=30)
@given(**{name: value for name, value in LAYERS.items() if name != "changed"})
def test_all_kept_changes_nothing(n, groups, per_group, out, kernel, seed):
    x, _, weight = layer(n, groups, per_group, out, kernel, False, seed)
    problem = reconstruction(moments_of(x), weight, n_groups=groups, ridge=1e-2)
    everything = np.arange(problem.layer.width)
    for made in (problem.fold(everything), problem.drop(everything)):
        np.testing.assert_array_equal(made.weight, weight)
        np.testing.assert_array_equal(made.shift, 0)
    assert problem.error_curve(everything).relative[-1] < 1e-9


@pytest.mark.parametrize("groups", [1, 2])
def test_linear_combinations_of_the_kept_are_exact(groups):
    x, _, weight = layer(300, groups, 6, 3, (2, 2), seed=3)
    rng = np.random.default_rng(5)
    for group in range(groups):  # three of six follow from the others, with an offset
        run = 6 * group
        x[:, run : run + 3] = x[:, run + 3 : run + 6] @ rng.standard_normal((3, 3)) + rng.standard_normal(3)
    problem = reconstruction(moments_of(x), weight, n_groups=groups, ridge=1e-10)
    kept = np.sort(problem.order("pivoted")[: 3 * groups])
    size = np.square(per_tap(x, weight, groups)).sum() / len(x)
    assert error(x, None, weight, problem.fold(kept), kept, groups) < 1e-12 * size
    assert error(x, None, weight, problem.drop(kept), kept, groups) > 0.01 * size
    assert problem.error_curve(problem.order("pivoted")).relative[3 * groups] < 1e-8


def test_changed_inputs_are_mapped_back():
    """The target is the original's output: where x^ is x turned, the fold turns it back."""
    x, _, weight = layer(400, 1, 5, 3, seed=4)
    x_hat = x @ np.random.default_rng(1).standard_normal((5, 5)) + 2
    problem = reconstruction(moments_of(x, x_hat), weight, ridge=1e-12)
    kept = np.arange(5)
    assert error(x, x_hat, weight, problem.fold(kept), kept) < 1e-12 * np.square(x @ weight.T).sum() / len(x)


def test_the_pivot_is_the_best_next_input():
    x, x_hat, weight = layer(80, 1, 7, 3, (3,), changed=True, seed=6)
    problem = reconstruction(moments_of(x, x_hat), weight, ridge=1e-3)
    order = problem.order("pivoted")
    for k in range(7):
        with_it = [np.r_[order[:k], j, np.setdiff1d(order[k:], j)] for j in order[k:]]
        left = [problem.error_curve(other).absolute[k + 1] for other in with_it]
        assert left[0] <= min(left) + 1e-9


def test_pivoted_inputs_lose_less_than_random_ones():
    x, _, weight = layer(500, 1, 40, 3, seed=7)
    problem = reconstruction(moments_of(x), weight, ridge=RIDGE)
    greedy = problem.error_curve(problem.order("pivoted")).absolute
    for seed in range(5):
        assert greedy[3:30].sum() < problem.error_curve(problem.order("random", seed=seed)).absolute[3:30].sum()


@pytest.mark.parametrize("strategy", ["random", "pivoted"])
@pytest.mark.parametrize("groups", [1, 2])
def test_parts_take_turns(strategy, groups):
    x, _, weight = layer(50, groups, 12 // groups, 4, seed=8)
    problem = reconstruction(moments_of(x), weight, n_groups=groups, n_parts=4, ridge=1e-3)
    order = problem.order(strategy)
    np.testing.assert_array_equal(problem.order(strategy, 8), order[:8])
    for k in range(4, 13, 4):
        assert np.bincount(order[:k] // 3, minlength=4).tolist() == [k // 4] * 4


def test_layers_of_a_network_are_drawn_independently_and_repeat():
    x, _, weight = layer(50, 1, 30, 4)
    problem = reconstruction(moments_of(x), weight, ridge=1e-3)
    draws = [problem.order("random", seed=s, place=p).tolist() for s, p in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert draws[0] == draws[3]
    assert draws[0] != draws[1] != draws[2] != draws[0]


def test_constant_and_dead_inputs():
    x = np.full((20, 4), 3.0)
    problem = reconstruction(moments_of(x), np.ones((2, 4)), ridge=1e-3)
    curve = problem.error_curve(problem.order("pivoted"))
    folded = problem.fold(np.array([1]))
    assert np.isfinite(curve.absolute).all()
    np.testing.assert_array_equal(curve.relative, 0)
    np.testing.assert_allclose(folded.weight @ [3.0] + folded.shift, [12.0, 12.0])


def test_moments_are_those_of_the_rows():
    x, x_hat, _ = layer(50, changed=True)
    x, x_hat = x + 1e6, x_hat - 1e6  # means far above the spread
    moments = moments_of(x, x_hat)
    both = np.cov(np.hstack([x, x_hat]), rowvar=False, bias=True)
    for found, wanted in [(moments.xx, both[:5, :5]), (moments.xh, both[:5, 5:]), (moments.hh, both[5:, 5:])]:
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(np.r_[moments.mean, moments.mean_hat], np.r_[x.mean(0), x_hat.mean(0)])
    same = moments_of(x)
    assert same.xx is same.xh is same.hh


def test_what_makes_no_sense_is_refused():
    moments = moments_of(layer()[0])
    for weight, options in [
        (np.ones((4, 5)), {"n_parts": 2}),
        (np.ones((4, 5)), {"n_groups": 3}),
        (np.ones((4, 4)), {"n_groups": 4, "n_parts": 2}),
    ]:
        with pytest.raises(UsageError, match="narrow a layer"):
            reading(weight, **options)
    for width, ridge in [(4, 1e-3), (5, 0.0), (5, np.nan)]:
        with pytest.raises(UsageError, match="reconstruct"):
            reconstruction(moments, np.ones((4, width)), ridge=ridge)
    with pytest.raises(DataError, match="no images"):
        JointAccumulator(3).freeze()
    with pytest.raises(DataError, match="not finite"):
        JointAccumulator(2).update(torch.tensor([[1.0, float("nan")]]))


@settings(deadline=None, max_examples=40)
@given(**LAYERS)
def test_errors_elsewhere_are_those_of_the_folded_layer(n, groups, per_group, out, kernel, changed, seed):
    """Fold on some rows, answer other rows, and measure: nothing of the closed form."""
    x, x_hat, weight = layer(n + 10, groups, per_group, out, kernel, changed, seed)
    x, others = x[:n], x[n:]
    x_hat, others_hat = (None, None) if x_hat is None else (x_hat[:n], x_hat[n:])
    importance = np.random.default_rng(seed).random(len(weight))
    own, there = moments_of(x, x_hat), moments_of(others, others_hat)
    problem = reconstruction(own, weight, n_groups=groups, ridge=1e-2, importance=importance)
    order = problem.order("random", seed=seed)
    found = Elsewhere(problem.layer, own, there, order).errors(problem)
    for k in range(groups, problem.layer.width + 1, groups):
        kept = np.sort(order[:k])
        folded = problem.fold(kept)
        answer = per_tap((others if x_hat is None else others_hat)[:, kept], folded.weight, groups)
        answer = answer + folded.shift.reshape(1, len(weight), -1)
        wanted = np.square(answer - per_tap(others, weight, groups)).sum(2).mean(0) @ importance
        assert found[k] == pytest.approx(wanted, rel=1e-6, abs=1e-8 * (1 + found[0]))
    prefix = Elsewhere(problem.layer, own, there, order[:groups]).errors(problem)
    np.testing.assert_allclose(prefix, found[: groups + 1], rtol=1e-9, atol=1e-12)


def test_halves_that_tell_little_ask_for_a_strong_ridge():
    """Twenty independent rows say nothing of thirty inputs: least squares would find what is not there."""
    rng = np.random.default_rng(0)
    weight, ridges = rng.standard_normal((4, 30)), (1e-6, 1e-3, 1.0, 1e3)

    def fitted(n, mixed):
        x = rng.standard_normal((n, 30)) @ mixed
        halves = moments_of(x[::2]), moments_of(x[1::2])
        return cross_fit(reading(weight), halves, np.arange(30), ridges)

    few, many = fitted(40, np.eye(30)), fitted(4000, rng.standard_normal((30, 6)) @ rng.standard_normal((6, 30)))
    assert few.ridge[15] >= 1.0
    assert many.ridge[15] <= 1e-3
    assert few.curve.relative[15] < 0.8
    assert many.curve.relative[15] < 1e-6


def test_each_number_has_the_strength_that_serves_it_best():
    x, x_hat, weight = layer(80, 1, 12, 5, changed=True, seed=10)
    halves = moments_of(x[:40], x_hat[:40]), moments_of(x[40:], x_hat[40:])
    ridges, order = (1e-3, 1e-1, 10.0), np.arange(12)
    fitted = cross_fit(reading(weight), halves, order, ridges)
    alone = [cross_fit(reading(weight), halves, order, [ridge]).curve.absolute for ridge in ridges]
    np.testing.assert_array_equal(fitted.curve.absolute, np.min(alone, axis=0))
    assert len(set(fitted.ridge)) > 1


def test_halves_merge():
    x, x_hat, _ = layer(50, changed=True)
    whole, merged = moments_of(x, x_hat), moments_of(x[:20], x_hat[:20]).merged(moments_of(x[20:], x_hat[20:]))
    for name in ("mean", "mean_hat", "xx", "xh", "hh"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-10, atol=1e-10)
    same = moments_of(x[:20]).merged(moments_of(x[20:]))
    assert same.hh is same.xx
    np.testing.assert_allclose(same.xx, whole.xx)


@pytest.mark.parametrize("groups", [1, 2])
def test_errors_count_what_outputs_are_worth(groups):
    x, x_hat, weight = layer(60, groups, 5, 3, (2,), changed=True, seed=9)
    importance = np.arange(3.0 * groups)
    moments, kept = moments_of(x, x_hat), np.arange(0, 5 * groups, 5)
    problem = reconstruction(moments, weight, n_groups=groups, ridge=1e-9, importance=importance)
    order = np.r_[kept, np.setdiff1d(np.arange(5 * groups), kept)]
    folded = problem.fold(kept)
    found = per_tap(x_hat[:, kept], folded.weight, groups) + folded.shift.reshape(1, 3 * groups, -1)
    wanted = np.square(found - per_tap(x, weight, groups)).sum(2).mean(0) @ importance
    assert problem.error_curve(order).absolute[groups] == pytest.approx(wanted, rel=1e-5)
    plain = reconstruction(moments, weight, n_groups=groups, ridge=1e-9).fold(kept)
    np.testing.assert_array_equal(folded.weight, plain.weight)

"""Draws repeat, do not depend on each other, and are fair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.errors import UsageError
from prune_tool.redundancy.subsets import draw_interleaved, draw_permutations, draw_pool, size_grid


@given(width=st.integers(1, 50), n_draws=st.integers(0, 5), seed=st.integers(0, 2**32))
def test_draws_are_permutations_that_do_not_depend_on_their_number(width, n_draws, seed):
    draws = draw_permutations(width, n_draws, seed)
    assert draws.shape == (n_draws, width)
    assert draws.dtype == np.int64
    assert (np.sort(draws, axis=1) == np.arange(width)).all()
    assert np.array_equal(draws, draw_permutations(width, n_draws + 3, seed)[:n_draws])


def test_draws_are_pinned_across_versions_and_differ_by_seed():
    assert draw_permutations(8, 2, seed=0).tolist() == [[7, 2, 0, 4, 3, 5, 6, 1], [3, 4, 0, 6, 5, 2, 7, 1]]
    assert not np.array_equal(draw_permutations(50, 1, seed=0), draw_permutations(50, 1, seed=1))


def test_every_neuron_comes_first_equally_often():
    first = draw_permutations(8, 4000, seed=3)[:, 0]
    assert np.abs(np.bincount(first, minlength=8) - 500).max() < 5 * np.sqrt(500)


@given(
    widths=st.lists(st.integers(1, 60), min_size=1, max_size=6), max_pool=st.integers(1, 200), seed=st.integers(0, 9)
)
def test_a_pool_has_its_size_and_each_tap_its_share(widths, max_pool, seed):
    taps = {f"tap{i}": width for i, width in enumerate(widths)}
    pool = draw_pool(taps, max_pool, seed)
    assert list(pool) == list(taps)
    assert sum(map(len, pool.values())) == min(max_pool, sum(widths))
    share = min(1, max_pool / sum(widths))
    for tap, neurons in pool.items():
        assert abs(len(neurons) - share * taps[tap]) < 1
        assert (np.diff(neurons) > 0).all()
        assert neurons.size == 0 or (neurons[0] >= 0 and neurons[-1] < taps[tap])
    again = draw_pool(taps, max_pool, seed)
    assert all(np.array_equal(pool[tap], again[tap]) for tap in taps)


def test_remainders_go_to_the_largest_then_the_earlier():
    pool = draw_pool({"a": 3, "b": 5, "c": 3}, 4, seed=0)  # shares 1.09, 1.82, 1.09
    assert [len(neurons) for neurons in pool.values()] == [1, 2, 1]
    pool = draw_pool({"a": 5, "b": 5}, 5, seed=0)
    assert [len(neurons) for neurons in pool.values()] == [3, 2]


def test_pools_and_draws_of_one_seed_share_no_words():
    pool = draw_pool({"a": 1000}, 500, seed=0)["a"]
    draw = np.sort(draw_permutations(1000, 1, seed=0)[0, :500])
    assert 180 < np.intersect1d(pool, draw).size < 320


@given(width=st.integers(1, 5000), n_sizes=st.integers(1, 80))
def test_a_grid_ascends_from_1_to_the_width(width, n_sizes):
    sizes = size_grid(width, n_sizes)
    assert len(sizes) == min(n_sizes, width)
    assert sizes[-1] == width
    assert (np.diff(sizes) > 0).all()
    assert sizes[0] == (1 if n_sizes > 1 else width)
    steps = np.diff(sizes)
    assert (np.diff(steps) >= -1).all()  # steps grow, but for rounding


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UsageError):
        draw_pool({"a": 3}, 0, seed=0)
    with pytest.raises(UsageError):
        size_grid(10, 0)


def test_runs_take_turns():
    order = draw_interleaved(12, 3, seed=0, place=1)
    assert sorted(order) == list(range(12))
    assert (order // 4).tolist() == [0, 1, 2] * 4
    assert order.tolist() != draw_interleaved(12, 3, seed=0, place=2).tolist()
    np.testing.assert_array_equal(order, draw_interleaved(12, 3, seed=0, place=1))

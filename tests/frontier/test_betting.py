"""The betting test is valid whatever the law, and knows a mean above 0 when it sees one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.frontier.betting import n_numbers_needed, p_values

ALPHA = 0.05


def rejections(numbers, least, alpha=ALPHA):
    return float((p_values(numbers, np.full(len(numbers), least), alpha) <= alpha).mean())


@pytest.mark.parametrize("m", [5, 40, 300])
@pytest.mark.parametrize(
    "law",
    [
        lambda rng, shape: rng.uniform(-1, 1, shape),
        lambda rng, shape: np.where(rng.random(shape) < 0.95, 0.05, -0.95),  # rare large losses
        lambda rng, shape: np.where(rng.random(shape) < 0.05, 0.95, -0.05),  # rare large gains
        lambda rng, shape: np.where(rng.random(shape) < 0.1, rng.choice([-1.0, 1.0], shape), 0.0),  # mostly nothing
    ],
)
def test_a_mean_of_zero_is_taken_for_more_at_most_alpha_of_the_time(law, m):
    numbers = law(np.random.default_rng(m), (4000, m))
    assert rejections(numbers, -1.0) <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / 4000)


def test_it_has_power():
    """At three standard errors above 0, where the normal approximation has a power of 0.91."""
    rng = np.random.default_rng(0)
    numbers = np.where(rng.random((2000, 300)) < 0.1, rng.choice([-1.0, 1.0], (2000, 300)), 0.0)
    numbers += 3 * np.sqrt(0.1 / 300)
    assert rejections(numbers, -1.0) > 0.6


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_p_value_is_one_and_wealth_is_never_negative(numbers, alpha):
    (found,) = p_values(np.array([numbers]), np.array([-1.0]), alpha)
    assert 0 < found <= 1


def test_nothing_lost_and_nothing_won_proves_nothing():
    assert p_values(np.zeros((1, 100)), np.array([-1.0]), ALPHA).tolist() == [1.0]
    assert n_numbers_needed(np.zeros(100), -1.0, ALPHA) is None


def test_numbers_needed_are_about_enough():
    rng = np.random.default_rng(1)
    sample = rng.choice([-0.5, 0.0, 0.7], 60, p=[0.2, 0.5, 0.3])
    needed = n_numbers_needed(sample, -1.0, ALPHA)
    more = rng.choice(sample, (500, round(1.5 * needed)))
    assert rejections(more, -1.0) > 0.5
    assert rejections(more[:, : round(0.4 * needed)], -1.0) < 0.5

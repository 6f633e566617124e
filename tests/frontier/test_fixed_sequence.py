from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pytest

from prune_tool.frontier.certificate import test_drop as drop_test
from prune_tool.frontier.fixed_sequence import fixed_sequence
from prune_tool.records import Budget

ALPHA = 0.05


@dataclass(frozen=True)
class Tried:
    """A test whose p-value is given."""

    p_value: float

    @property
    def passed(self):
        return self.p_value <= ALPHA


def forbidden():
    raise AssertionError("a candidate after a failure was evaluated")


def test_the_first_failure_ends_it_and_nothing_behind_it_is_looked_at():
    passing, failing = partial(Tried, 0.001), partial(Tried, 0.9)
    assert [test.passed for test in fixed_sequence([passing, passing, failing, forbidden])] == [True, True, False]
    assert [test.passed for test in fixed_sequence([failing, forbidden])] == [False]
    assert [test.passed for test in fixed_sequence([passing, passing])] == [True, True]
    assert fixed_sequence([]) == ()


@cache
def p_value(n_lost, n_images):
    """Of "at least 5 points are lost" where full is always right."""
    kept = np.arange(n_images) >= n_lost
    return drop_test(np.ones(n_images, bool), kept, Budget.parse("5pp"), ALPHA).p_value


@pytest.mark.parametrize("shared", [0.0, 0.6, 1.0])
def test_a_false_certificate_anywhere_in_an_order_is_rarer_than_alpha(shared):
    """Eight candidates that all lose exactly the budget, alike in ``shared`` of their images, over 4,000 tasks."""
    rng, n_images, n_tasks = np.random.default_rng(3), 300, 4_000
    n_wrong = 0
    for _ in range(n_tasks):
        alike = rng.random(n_images) < shared
        in_common = rng.random(n_images) < 0.05
        lost = np.where(alike, in_common, rng.random((8, n_images)) < 0.05).sum(axis=1)
        n_wrong += fixed_sequence([partial(Tried, p_value(int(n), n_images)) for n in lost])[0].passed
    assert n_wrong / n_tasks <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / n_tasks)
    assert n_wrong / n_tasks > 0.4 * ALPHA, "and the level is made use of"

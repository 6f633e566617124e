from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool import defaults
from prune_tool.frontier.certificate import test_drop as drop_test
from prune_tool.frontier.fallback import entries, fallback
from prune_tool.records import Budget

ALPHA = 0.05
FIRST, FRESH = (ALPHA * share for share in (defaults.FIRST_ENTRY, 1 - defaults.FIRST_ENTRY))


@dataclass(frozen=True)
class Tried:
    """A test whose p-value is given."""

    p_value: float
    alpha: float

    @property
    def passed(self):
        return self.p_value <= self.alpha


def tried(p_values):
    """What comes of an order of tests with these p-values."""
    return fallback([partial(Tried, p) for p in p_values], ALPHA)


def levels(p_values):
    return {place: test.alpha for place, test in tried(p_values).tests.items()}


def test_where_nobody_fails_the_cheaper_half_is_tested_at_the_full_level():
    assert levels([0.001] * 6) == {0: FIRST, 1: FIRST, 2: FIRST, 3: ALPHA, 4: ALPHA, 5: ALPHA}


def test_after_a_failure_nothing_is_looked_at_until_the_middle_and_that_has_the_rest_of_the_level():
    assert levels([0.001, 0.2, 0.001, 0.01, 0.01, 0.01]) == {0: FIRST, 1: FIRST, 3: FRESH, 4: FRESH, 5: FRESH}
    assert levels([0.2, 0.001, 0.001, 0.03, 0.001, 0.001]) == {0: FIRST, 3: FRESH}


def test_a_level_that_is_lost_does_not_come_back():
    assert levels([0.001, 0.001, 0.001, 0.06, 0.001, 0.001]).keys() == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("p_values", "last"),
    [
        ([0.001, 0.001, 0.04, 0.04], 3),
        ([0.2, 0.001, 0.01, 0.2], 2),
        ([0.02, 0.2, 0.2, 0.001], 0),
        ([0.2, 0.001, 0.2, 0.001], None),
        ([], None),
    ],
)
def test_the_cheapest_that_passed_is_found(p_values, last):
    assert tried(p_values).last_passed == last


@given(st.integers(0, defaults.MIN_ORDER_OF_TWO_ENTRIES - 1))
def test_a_short_order_is_entered_once_and_at_the_full_level(n):
    assert entries(n) == {0: 1.0}
    assert set(levels([0.001] * n).values()) <= {ALPHA}


def test_what_is_not_tested_is_not_evaluated():
    def forbidden(alpha):
        raise AssertionError("a candidate out of turn was evaluated")

    passing, failing = partial(Tried, 0.001), partial(Tried, 0.9)
    done = fallback([failing, forbidden, passing, failing, forbidden], ALPHA)
    assert done.last_passed == 2


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
        n_wrong += tried([p_value(int(n), n_images) for n in lost]).last_passed is not None
    assert n_wrong / n_tasks <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / n_tasks)
    assert n_wrong / n_tasks > 0.2 * ALPHA, "and the level is made use of"

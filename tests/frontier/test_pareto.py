import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.errors import UsageError
from prune_tool.frontier.pareto import pareto_front

CANDIDATES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=25)


def is_beaten(i, costs, accuracies):
    """By its definition: something else is no dearer and no worse, and differs or comes first."""
    return any(
        costs[j] <= costs[i]
        and accuracies[j] >= accuracies[i]
        and ((costs[j], accuracies[j]) != (costs[i], accuracies[i]) or j < i)
        for j in range(len(costs))
        if j != i
    )


@given(CANDIDATES)
def test_equals_brute_force_and_rises_strictly(candidates):
    costs = np.array([cost for cost, _ in candidates], dtype=float)
    accuracies = np.array([accuracy for _, accuracy in candidates], dtype=float)
    front = pareto_front(costs, accuracies)
    assert set(front) == {i for i in range(len(costs)) if not is_beaten(i, costs, accuracies)}
    assert (np.diff(costs[front]) > 0).all()
    assert (np.diff(accuracies[front]) > 0).all()
    assert front.dtype == np.int64


@pytest.mark.parametrize(
    ("costs", "accuracies"), [([1.0, 2.0], [0.5]), ([[1.0]], [[0.5]]), ([np.nan], [0.5]), ([1.0], [np.inf])]
)
def test_what_has_no_order_is_an_error(costs, accuracies):
    with pytest.raises(UsageError, match="finite"):
        pareto_front(costs, accuracies)

"""The choice follows the budget: a tighter one never makes it cheaper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.errors import BudgetError
from prune_tool.frontier.choice import cheapest_subset, safe_to_cheap, smallest_size, within_budget
from prune_tool.frontier.screen import front
from prune_tool.records import Budget, Candidate, Score

N_IMAGES = 100
FULL = Score(n_correct=80, n_images=N_IMAGES)
BUDGETS = [Budget(kind="relative", loss=loss) for loss in (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Readings whose accuracy is any function of size, and whose cost grows with size.

    Attributes:
        n_correct: per reading, by size from 1 on.
        trunk: per reading, what it costs without neurons.
        each: per reading, what a neuron costs.
    """

    n_correct: tuple[tuple[int, ...], ...]
    trunk: tuple[int, ...]
    each: tuple[int, ...]

    def candidate(self, reading: int, n_neurons: int) -> Candidate:
        return Candidate(
            reading=reading,
            n_neurons=n_neurons,
            macs=self.trunk[reading] + self.each[reading] * n_neurons,
            n_params=n_neurons,
            n_bytes=n_neurons,
            val=Score(n_correct=self.n_correct[reading][n_neurons - 1], n_images=N_IMAGES),
            strength=1.0,
        )

    @property
    def probed(self) -> list[Candidate]:
        sizes = [(r, size) for r, curve in enumerate(self.n_correct) for size in {len(curve), -(-len(curve) // 2)}]
        return [self.candidate(reading, size) for reading, size in sizes]

    def choose(self, budget: Budget, look: Callable[[Candidate], None] = lambda _: None) -> Candidate:
        eligible = within_budget(front(self.probed, "macs"), FULL, budget, str)

        def shrunk(candidate: Candidate, n_neurons: int) -> Candidate:
            found = self.candidate(candidate.reading, n_neurons)
            look(found)
            return found

        return cheapest_subset(
            eligible,
            "macs",
            meets=lambda candidate: budget.is_met(candidate.val, FULL),
            shrunk=shrunk,
            promised=lambda candidate, n: replace(self.candidate(candidate.reading, n), val=candidate.val),
        )


@st.composite
def curves(draw: st.DrawFn) -> tuple[int, ...]:
    """Accuracy by size: low, from some size on high, with noise on some of them."""
    width, high = draw(st.sampled_from((1, 7, 16, 33, 64))), draw(st.integers(60, 95))
    least = draw(st.integers(1, width))
    noise = draw(st.dictionaries(st.integers(0, width - 1), st.integers(-6, 6), max_size=4))
    return tuple((high if n + 1 >= least else 30) + noise.get(n, 0) for n in range(width))


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    accuracies = draw(st.lists(curves(), min_size=2, max_size=5))
    trunk = st.lists(st.integers(0, 60), min_size=len(accuracies), max_size=len(accuracies))
    each = st.lists(st.integers(1, 3), min_size=len(accuracies), max_size=len(accuracies))
    return Task(n_correct=tuple(accuracies), trunk=tuple(draw(trunk)), each=tuple(draw(each)))


@settings(deadline=None, max_examples=500)
@given(tasks())
def test_a_tighter_budget_never_chooses_a_cheaper_network(task: Task) -> None:
    chosen = []
    for budget in BUDGETS:
        try:
            chosen.append(task.choose(budget).cost("macs"))
        except BudgetError:
            assert not chosen, "a looser budget refuses what a tighter one found"
    assert chosen == sorted(chosen, reverse=True)


@settings(deadline=None)
@given(tasks(), st.sampled_from(BUDGETS))
def test_what_is_chosen_meets_the_budget_and_nothing_probed_does_at_less_cost(task: Task, budget: Budget) -> None:
    try:
        chosen = task.choose(budget)
    except BudgetError:
        return
    assert budget.is_met(chosen.val, FULL)
    assert all(chosen.cost("macs") <= c.cost("macs") for c in task.probed if budget.is_met(c.val, FULL))


@settings(deadline=None)
@given(tasks(), st.sampled_from(BUDGETS))
def test_the_order_of_testing_goes_from_safe_to_cheap(task: Task, budget: Budget) -> None:
    try:
        chosen = task.choose(budget)
    except BudgetError:
        return
    order = safe_to_cheap(within_budget(front(task.probed, "macs"), FULL, budget, str), chosen, "macs")
    costs = [candidate.cost("macs") for candidate in order]
    assert costs == sorted(set(costs), reverse=True)
    assert order[-1] == chosen
    assert all(candidate.val.accuracy >= chosen.val.accuracy for candidate in order)


def test_a_subset_of_a_dearer_reading_is_found_where_it_is_cheaper() -> None:
    """The cheapest candidate cannot be shrunk; the dearer one keeps its accuracy down to a few neurons."""
    task = Task(n_correct=((80,), (90,) * 64), trunk=(20, 0), each=(1, 1))
    assert [candidate.reading for candidate in front(task.probed, "macs")] == [0, 1]
    chosen = task.choose(BUDGETS[1])
    assert (chosen.reading, chosen.n_neurons) == (1, 2)


def test_what_cannot_get_cheaper_is_not_looked_into() -> None:
    task = Task(n_correct=((80,) * 64, (95,) * 64), trunk=(0, 1000), each=(1, 1))
    looked: list[Candidate] = []
    assert task.choose(BUDGETS[0], looked.append).reading == 0
    assert {candidate.reading for candidate in looked} == {0}


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500))
def test_halving_ends_next_to_a_size_that_does_not_meet(known: int, least: int) -> None:
    found = smallest_size(lambda n: n >= least, known)
    assert found <= known
    if least <= known:
        assert least <= found <= least + max(1, known // 16)


def test_a_budget_of_nothing_is_met_or_refused_with_what_would_do() -> None:
    meets = Task(n_correct=((80,) * 8,), trunk=(0,), each=(1,))
    assert meets.choose(BUDGETS[0]).val.accuracy >= FULL.accuracy
    fails = replace(meets, n_correct=((79,) * 8,))
    with pytest.raises(BudgetError) as caught:
        fails.choose(BUDGETS[0])
    text = caught.value.remedy.removeprefix("--budget ").removesuffix(" would take it")
    assert fails.choose(Budget.parse(text)).val.n_correct == 79


@pytest.mark.parametrize("text", ["0.01,0.02,5pp", " 0.01, 5% ,0.05"])
def test_budgets_are_read_with_commas(text: str) -> None:
    assert [budget.spelled for budget in Budget.parse_all(text)] in (["0.01", "0.02", "5pp"], ["0.01", "0.05"])
    assert all(Budget.parse(budget.spelled) == budget for budget in Budget.parse_all(text))

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_tool.errors import DataError, UsageError
from prune_tool.frontier import certificate
from prune_tool.frontier.certificate import certify
from prune_tool.frontier.paired import Null, p_value
from prune_tool.records import Budget, Score

ALPHA = 0.05


def images(n_both, n_lost, n_won, n_neither):
    """(full_correct, kept_correct) with these counts."""
    counts = [n_both, n_lost, n_won, n_neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def scores(counts):
    """(kept, full) with these counts."""
    n_both, n_lost, n_won, _ = counts
    return tuple(Score(n_correct=n_both + n, n_images=sum(counts)) for n in (n_won, n_lost))


def drop(counts, budget, alpha=ALPHA):
    return certificate.test_drop(*images(*counts), Budget.parse(budget), alpha)


@pytest.mark.parametrize(
    ("budget", "rates"),
    [
        ("5%", (0.855, 0.045, 0.0, 0.1)),  # kept is right only where full is
        ("5%", (0.28, 0.065, 0.04775, 0.60725)),  # both are poor
        ("10%", (0.8, 0.11, 0.019, 0.071)),
        ("2pp", (0.85, 0.021, 0.001, 0.128)),  # rare disagreement
        ("5pp", (0.5, 0.2, 0.15, 0.15)),  # frequent disagreement
        ("0", (0.7, 0.1, 0.1, 0.1)),
    ],
)
def test_false_certification_is_rarer_than_alpha(budget, rates):
    """At the boundary of the null, where it is likeliest, over 1,500 simulated tasks of 80 images."""
    q_both, q_lost, q_won, _ = rates
    parsed = Budget.parse(budget)
    full, kept = q_both + q_lost, q_both + q_won
    floor = full * (1 - parsed.loss) if parsed.kind == "relative" else full - parsed.loss
    assert kept == pytest.approx(floor, abs=3e-4)
    n_tasks = 1_500
    tables = Counter(map(tuple, np.random.default_rng(5).multinomial(80, rates, size=n_tasks).tolist()))
    promising = {table: n for table, n in tables.items() if parsed.is_met(*scores(table))}
    n_certified = sum(n for table, n in promising.items() if drop(table, budget).passed)
    assert n_certified / n_tasks <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / n_tasks)


@settings(max_examples=60)
@given(st.data())
def test_more_correct_predictions_never_uncertify(data):
    n = data.draw(st.integers(20, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    full = rng.random(n) < 0.8
    kept = np.where(rng.random(n) < 0.9, full, ~full)
    kept[data.draw(st.integers(0, n - 1))] = False
    budget = Budget.parse(data.draw(st.sampled_from(["0", "5%", "20%", "5pp", "15pp"])))
    before = certificate.test_drop(full, kept, budget, ALPHA)
    kept[data.draw(st.sampled_from(np.flatnonzero(~kept).tolist()))] = True
    after = certificate.test_drop(full, kept, budget, ALPHA)
    assert after.passed or not before.passed


def test_a_relative_budget_looks_at_images_that_either_gets_right_and_points_at_all():
    counts = (530, 25, 19, 82)
    for budget, null in (("5%", Null(b=0.05, c=0.95, m=574)), ("5pp", Null(b=0.05, c=1.0, m=656))):
        assert drop(counts, budget).p_value == p_value(null, n_lost=25, n_won=19)


def test_the_order_of_images_does_not_matter():
    full, kept = images(300, 20, 10, 60)
    order = np.random.default_rng(0).permutation(full.size)
    budget = Budget.parse("5%")
    shuffled = certificate.test_drop(full[order], kept[order], budget, ALPHA)
    assert shuffled == certificate.test_drop(full, kept, budget, ALPHA)


@pytest.mark.parametrize("budget", ["5%", "5pp"])
def test_drop_bound_is_where_the_test_turns(budget):
    counts, unit = (530, 45, 19, 62), budget.lstrip("5")
    bound = 100 * certify(drop(counts, budget)).drop_bound
    assert drop(counts, f"{bound:.6f}{unit}").passed
    assert not drop(counts, f"{bound - 0.02:.6f}{unit}").passed


def test_drop_bound_never_contradicts_the_state():
    for n_lost in range(22, 38, 3):
        found = certify(drop((530, n_lost, 12, 62), "5%"))
        assert (found.drop_bound <= 0.05) == (found.state == "certified")


@pytest.mark.parametrize(
    ("counts", "budget"), [((160, 8, 4, 28), "5%"), ((18, 0, 0, 2), "5%"), ((95, 5, 4, 96), "2pp")]
)
def test_images_needed_are_enough_and_not_far_too_many(counts, budget):
    found = certify(drop(counts, budget))
    assert found.state == "cannot certify"

    def same_rates(n):
        scaled = [round(n * count / sum(counts)) for count in counts]
        return drop(scaled, budget)

    assert same_rates(found.n_images_needed * 1.05).passed
    assert not same_rates(found.n_images_needed * 0.85).passed


@pytest.mark.parametrize("counts", [(90, 0, 0, 10), (80, 5, 5, 10), (0, 0, 0, 100)])
def test_budget_zero_never_certifies_what_is_merely_equal(counts):
    found = certify(drop(counts, "0"))
    assert (found.state, found.n_images_needed) == ("cannot certify", None)
    assert "no number" in found.sentence()


def test_budget_zero_certifies_what_is_better():
    found = certify(drop((500, 2, 20, 100), "0"))
    assert (found.state, found.drop_bound) == ("certified", 0.0)
    assert found.sentence().endswith("with 95 % confidence the loss is within the budget of 0 %.")


def test_sentences():
    certified = certify(drop((530, 25, 19, 82), "0.05"))
    assert certified.sentence() == (
        "On 656 test images never used before, the file keeps 98.9 % of the full backbone's accuracy (83.7 % against "
        "84.6 %); with 95 % confidence the loss is within the budget of 5 %."
    )
    not_met = certify(drop((530, 60, 5, 61), "5pp"))
    assert (not_met.state, not_met.n_images_needed) == ("not met", None)
    assert not_met.sentence() == (
        "On 656 test images never used before, the file loses 8.4 points of accuracy (81.6 % against 89.9 %); the loss "
        "measured is beyond the budget of 5 points."
    )
    unsure = certify(drop((160, 8, 4, 28), "5%"))
    needed = f"about {unsure.n_images_needed} images."
    assert unsure.sentence().endswith(f"within the budget of 5 %, but to say so with 95 % confidence takes {needed}")


def test_a_backbone_that_is_never_right_has_a_sentence_too():
    assert "0.0 points" in certify(drop((0, 0, 0, 20), "5%")).sentence()


@pytest.mark.parametrize(
    ("full", "kept"),
    [
        (np.zeros(0, bool), np.zeros(0, bool)),
        (np.zeros(3, bool), np.zeros(4, bool)),
        (np.zeros((2, 2), bool), np.zeros((2, 2), bool)),
        (np.zeros(3), np.zeros(3, bool)),
    ],
)
def test_what_cannot_be_paired_is_an_error(full, kept):
    with pytest.raises(DataError, match="one length"):
        certificate.test_drop(full, kept, Budget.parse("5%"), ALPHA)


def test_a_level_that_is_none_is_an_error():
    with pytest.raises(UsageError, match="between 0 and 1"):
        drop((9, 0, 0, 1), "5%", alpha=95)

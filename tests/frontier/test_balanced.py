"""What may be said of balanced accuracy: false at most alpha of the time, however rare a class is."""

import numpy as np
import pytest

from prune_tool.frontier.certificate import certify
from prune_tool.frontier.certificate import test_balanced_drop as drop_test
from prune_tool.frontier.evidence import ClassEvidence, Outcomes
from prune_tool.records import Budget

ALPHA = 0.05


def outcomes(*counts):
    """A class with these numbers of images that both, full alone, kept alone and neither get right."""
    return Outcomes(**dict(zip(("n_both", "n_lost", "n_won", "n_neither"), counts, strict=True)))


def simulated(rng, sizes, rates):
    return ClassEvidence(
        classes=tuple(outcomes(*rng.multinomial(n, q).tolist()) for n, q in zip(sizes, rates, strict=True))
    )


@pytest.mark.parametrize(
    ("budget", "sizes", "rates"),
    [
        ("5%", (40, 120), ((0.76, 0.08, 0.02, 0.14), (0.82, 0.04, 0.0, 0.14))),
        ("5pp", (30, 90, 300), ((0.6, 0.15, 0.05, 0.2), (0.8, 0.05, 0.0, 0.15), (0.9, 0.02, 0.02, 0.06))),
        ("10%", (25, 400), ((0.45, 0.16, 0.03, 0.36), (0.93, 0.05, 0.0, 0.02))),
    ],
)
def test_false_certification_is_rarer_than_alpha(budget, sizes, rates):
    parsed, rng = Budget.parse(budget), np.random.default_rng(11)
    full = np.mean([both + lost for both, lost, _, _ in rates])
    kept = np.mean([both + won for both, _, won, _ in rates])
    floor = full * (1 - parsed.loss) if parsed.kind == "relative" else full - parsed.loss
    assert kept <= floor + 1e-9  # the null is true
    assert kept > floor - 0.02  # and near its boundary
    n_tasks = 3000
    n_passed = sum(simulated(rng, sizes, rates).p_value(parsed, ALPHA) <= ALPHA for _ in range(n_tasks))
    assert n_passed / n_tasks <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / n_tasks)


def test_a_small_drop_of_many_images_is_certified_and_one_class_that_collapses_is_not():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [1000, 200])
    full = rng.random(1200) < 0.9
    kept = np.where(rng.random(1200) < 0.99, full, ~full)
    fine = certify(drop_test(labels, full, kept, Budget.parse("5%"), ALPHA))
    assert fine.state == "certified"
    assert fine.drop_bound <= 0.05
    assert "balanced accuracy" in fine.sentence()
    collapsed = certify(drop_test(labels, full, kept & (labels == 0), Budget.parse("5%"), ALPHA))
    assert collapsed.state == "not met"
    assert collapsed.test.kept.accuracy < 0.5


def test_the_bound_is_where_the_test_turns():
    evidence = ClassEvidence(classes=(outcomes(500, 30, 20, 50), outcomes(150, 12, 6, 32)))
    bound = evidence.drop_bound(Budget.parse("5%"), ALPHA)
    assert evidence.p_value(Budget(kind="relative", loss=bound + 1e-6), ALPHA) <= ALPHA
    assert evidence.p_value(Budget(kind="relative", loss=bound - 2e-3), ALPHA) > ALPHA


def test_too_few_images_say_how_many_it_takes():
    labels = np.repeat([0, 1], [35, 15])
    full = np.repeat([True, True, False, True, False], [30, 1, 4, 12, 3])
    kept = np.repeat([True, False, False, True, False], [30, 1, 4, 12, 3])
    budget = Budget.parse("5%")
    found = certify(drop_test(labels, full, kept, budget, ALPHA))
    assert found.state == "cannot certify"
    assert found.n_images_needed is not None

    def p_at(n_images):
        scale = n_images / 50
        rates = ((30, 1, 0, 4), (12, 0, 0, 3))
        return ClassEvidence(classes=tuple(outcomes(*(round(scale * n) for n in c)) for c in rates)).p_value(
            budget, ALPHA
        )

    assert p_at(1.3 * found.n_images_needed) <= ALPHA
    assert p_at(0.6 * found.n_images_needed) > ALPHA


def test_the_same_outcomes_give_the_same_verdict_in_any_order():
    rng = np.random.default_rng(5)
    labels, full = rng.integers(0, 3, 300), rng.random(300) < 0.8
    kept = np.where(rng.random(300) < 0.95, full, ~full)
    order = rng.permutation(300)
    budget = Budget.parse("10%")
    assert drop_test(labels, full, kept, budget, ALPHA) == drop_test(
        labels[order], full[order], kept[order], budget, ALPHA
    )

"""Accuracy class by class: counts, the worst drop, and the Gini coefficient by its definition."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.errors import DataError, UsageError
from prune_tool.records import Score
from prune_tool.redundancy.fairness import compare_classes, gini

accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(np.array)


def test_classes_are_counted_on_the_same_images():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    full = np.array([0, 0, 0, 1, 1, 1, 2, 0, 0])
    kept = np.array([0, 0, 1, 1, 1, 0, 2, 2, 1])
    found = compare_classes(labels, full, kept, 3)
    assert [(s.label, s.full.n_correct, s.kept.n_correct, s.full.n_images) for s in found.classes] == [
        (0, 3, 2, 4),
        (1, 2, 1, 2),
        (2, 1, 2, 3),
    ]
    assert [s.drop_points for s in found.classes] == [25.0, 50.0, pytest.approx(-100 / 3)]
    assert found.worst == found.classes[1]
    assert found.absent == ()
    assert found.full_gini == pytest.approx((1 / 4 + 5 / 12 + 2 / 3) / (3 * (3 / 4 + 1 + 1 / 3)))
    assert found.kept_gini == pytest.approx((2 / 12 + 1 / 6) / (3 * (1 / 2 + 1 / 2 + 2 / 3)))


def test_classes_without_images_are_named_and_count_nowhere():
    labels, full, kept = np.array([1, 1, 3, 3]), np.array([1, 1, 3, 0]), np.array([1, 0, 2, 4])
    found = compare_classes(labels, full, kept, 5)
    assert found.absent == (0, 2, 4)
    assert [s.label for s in found.classes] == [1, 3]
    assert found.full_gini == gini(np.array([1.0, 0.5]))
    assert found.kept_gini == gini(np.array([0.5, 0.0])) == 0.5


def test_the_worst_may_be_a_gain_and_equals_go_to_the_lowest_label():
    labels = np.array([0] * 4 + [1] * 8)
    wrong = 1 - labels
    better = np.where(np.arange(12) % 2, labels, wrong)
    found = compare_classes(labels, wrong, better, 2)
    assert (found.worst.label, found.worst.drop_points) == (0, -50.0)
    assert compare_classes(labels, better, wrong, 2).worst.drop_points == 50.0
    assert compare_classes(labels, better, wrong, 2).worst.label == 0


def test_a_drop_of_a_few_images_is_exact():
    labels, full = np.zeros(10, np.int64), np.array([0] * 9 + [1])
    found = compare_classes(labels, full, np.array([0] * 3 + [1] * 7), 2)
    assert found.worst.drop_points == 60.0  # and 100 * (0.9 - 0.3) is not
    assert 100 * (0.9 - 0.3) != 60.0


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_classes_add_up_and_the_order_of_images_does_not_matter(rows, random):
    labels, full, kept = np.array(rows).T
    found = compare_classes(labels, full, kept, 5)
    assert sum(s.full.n_images for s in found.classes) == len(rows)
    assert sum(s.full.n_correct for s in found.classes) == (full == labels).sum()
    assert sum(s.kept.n_correct for s in found.classes) == (kept == labels).sum()
    assert sorted([s.label for s in found.classes] + list(found.absent)) == list(range(5))
    assert all(s.full.n_images == s.kept.n_images > 0 for s in found.classes)
    assert max(s.drop_points for s in found.classes) == found.worst.drop_points
    random.shuffle(rows)
    assert compare_classes(*np.array(rows).T, 5) == found
    swapped = compare_classes(labels, kept, full, 5)
    assert (swapped.full_gini, swapped.kept_gini) == (found.kept_gini, found.full_gini)


@pytest.mark.parametrize("c", [1, 2, 10, 1000])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1.0])
def test_equal_accuracies_have_gini_0_exactly(c, value):
    assert gini(np.full(c, value)) == 0


@pytest.mark.parametrize("c", [1, 2, 10, 1000])
def test_one_class_with_everything_has_the_largest_gini(c):
    assert gini(np.eye(c)[c // 2] * 0.3) == pytest.approx((c - 1) / c, rel=1e-14)


def test_other_known_values():
    assert gini(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(4 / 15)
    assert gini(np.array([3.0, 1])) == pytest.approx(1 / 4)


@given(accuracies)
def test_gini_is_half_the_relative_mean_difference_of_all_pairs(values):
    found = gini(values)
    assert 0 <= found <= 1 - 1 / len(values) + 1e-12
    if values.mean() > 1e-300:  # below, the definition's own products underflow
        pairs = np.abs(values[:, None] - values)
        assert found == pytest.approx(pairs.mean() / (2 * values.mean()), abs=1e-12)


@given(accuracies, st.floats(0.01, 1))
def test_gini_ignores_order_and_unit_and_falls_as_the_better_gives_to_the_worse(values, share):
    assert gini(values[::-1]) == gini(values)
    assert gini(8 * values) == pytest.approx(gini(values), abs=1e-12)
    even = values + share * (values.mean() - values)
    assert gini(even) <= gini(values) + 1e-12


def test_records_are_frozen_and_plain():
    found = compare_classes(np.array([0, 1]), np.array([0, 1]), np.array([0, 0]), 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.absent = ()
    assert found.classes[0].full == Score(n_correct=1, n_images=1)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["absent"] == [2]


def test_input_that_cannot_be_used_is_refused():
    labels = np.array([0, 1])
    with pytest.raises(DataError, match="no images"):
        compare_classes(labels[:0], labels[:0], labels[:0], 2)
    with pytest.raises(DataError, match="label 1"):
        compare_classes(labels * 0, labels * 0, labels, 1)
    with pytest.raises(DataError, match=r"shape \(1,\)"):
        compare_classes(labels, labels[:1], labels, 2)
    for values in ([], [-0.1, 1.0], [np.nan, 1.0], [np.inf]):
        with pytest.raises(UsageError, match="Gini"):
            gini(np.array(values))

from __future__ import annotations

import numpy as np
import pytest

from prune_tool.task.labels import index_labels, labelled_rows, plain


@pytest.mark.parametrize(
    ("values", "names", "classes", "labels"),
    [
        (["b", "a", "b"], (), ("a", "b"), [1, 0, 1]),
        ([10, 9, -1], (), ("-1", "9", "10"), [2, 1, 0]),
        (["10", "9", "10"], (), ("9", "10"), [1, 0, 1]),
        (["10", "9", "x"], (), ("10", "9", "x"), [0, 1, 2]),
        (["007", "7"], (), ("007", "7"), [0, 1]),
        ([2, 0, 2], ("ant", "bee", "cat"), ("ant", "cat"), [1, 0, 1]),
        (["2", "0"], ("ant", "bee", "cat"), ("ant", "cat"), [1, 0]),
        (["cat", "ant"], ("bee", "cat", "ant"), ("ant", "cat"), [1, 0]),
        (["²", "٣"], (), ("²", "٣"), [0, 1]),
    ],
)
def test_classes_and_indices(
    values: list[str], names: tuple[str, ...], classes: tuple[str, ...], labels: list[int]
) -> None:
    found, indices = index_labels(values, names)
    assert (found, indices.tolist(), indices.dtype) == (classes, labels, np.int64)


@pytest.mark.parametrize(
    ("values", "names", "found"),
    [
        ([], (), "no labelled images"),
        (["a", "a"], (), "only one class, a"),
        ([0, 2], ("a", "b"), "labels from 0 to 2 for 2 classes"),
        ([-2, 1], ("a", "b"), "labels from -2 to 1 for 2 classes"),
    ],
)
def test_what_cannot_be_told_apart(values: list[int], names: tuple[str, ...], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        index_labels(values, names)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2], [1, -1, 2]),
        (["a", None], ["a", ""]),
        ([True, False, None], ["True", "False", ""]),
        ([1, "a"], ["1", "a"]),
    ],
)
def test_a_column_becomes_names_or_numbers(values: list[object], expected: list[object]) -> None:
    assert plain(values) == expected


@pytest.mark.parametrize("value", [0.5, [1], b"a", {"a": 1}])
def test_other_values_are_no_labels(value: object) -> None:
    with pytest.raises(ValueError, match="neither a name nor a whole number"):
        plain([1, value])


def test_only_whole_splits_other_than_train_may_lack_labels() -> None:
    values, splits = [0, 1, -1, -1], ("train", "train", "test", "test")
    assert labelled_rows(values, splits, str).tolist() == [0, 1]
    with pytest.raises(ValueError, match="2 of 2 train have no label, first 2"):
        labelled_rows(values, splits[::-1], str)
    with pytest.raises(ValueError, match="1 of 3 images have no label, first 1"):
        labelled_rows(["a", "", "b"], (None,) * 3, str)
    assert labelled_rows(["", ""], (None,) * 2, str).tolist() == []

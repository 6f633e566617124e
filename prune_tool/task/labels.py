"""From labels as the data writes them to class names and indices into them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from prune_tool.records import Split

Int64 = NDArray[np.int64]
UNLABELLED = -1
"""What data sets write for a label that is held back; in a column of names it is an empty one."""


def index_labels(values: Sequence[str] | Sequence[int], names: Sequence[str] = ()) -> tuple[tuple[str, ...], Int64]:
    """Number the classes.

    Args:
        values: (n,) class of each image, by name or by number. Whole numbers written as text count as numbers, so that
            ``10`` comes after ``9``.
        names: of the numbers, where they have some. Those of which there is no image are left out: a part of a data
            set often comes with the names of the whole.

    Returns:
        Class names, and labels (n,) that are indices into them.

    Raises:
        ValueError: a number has no name, or there are fewer than two classes; says which.
    """
    distinct: set[str | int] = set(values)
    numbers = all(_is_number(str(value)) for value in distinct)
    found = sorted(distinct, key=int if numbers else str)
    classes = [str(value) for value in found]
    if names and numbers and found:
        if int(found[0]) < 0 or int(found[-1]) >= len(names):
            raise ValueError(f"labels from {found[0]} to {found[-1]} for {len(names)} classes")
        classes = [names[int(value)] for value in found]
    if len(classes) < 2:
        raise ValueError(f"only one class, {classes[0]}" if classes else "no labelled images")
    number = {value: i for i, value in enumerate(found)}
    return tuple(classes), np.array([number[value] for value in values], dtype=np.int64)


def _is_number(text: str) -> bool:
    """Whether a text is a whole number as Python writes it; ``007`` is a name."""
    return text.removeprefix("-").isdecimal() and str(int(text)) == text


def plain(values: Sequence[object]) -> list[str] | list[int]:
    """Labels of a column as names or as whole numbers; where there is none, as ``UNLABELLED`` or an empty name.

    Raises:
        ValueError: one is neither; says which.
    """
    bad = next((value for value in values if not isinstance(value, int | str | None)), None)
    if bad is not None:
        raise ValueError(f"a label is {bad!r}, which is neither a name nor a whole number")
    if any(isinstance(value, str | bool) for value in values):
        return ["" if value is None else str(value) for value in values]
    return [value if isinstance(value, int) else UNLABELLED for value in values]


def labelled_rows(
    values: Sequence[str] | Sequence[int], splits: Sequence[Split | None], name: Callable[[int], str]
) -> Int64:
    """Positions of the images that have a label. A whole split may come without (a contest's test set); it is left out.

    Args:
        values: (n,) from ``plain``.
        splits: (n,) as the data gives them.
        name: what to call the image at a position in an error.

    Raises:
        ValueError: some images of a split have a label and some do not; says how many, and names the first.
    """
    has = np.array([value not in (UNLABELLED, "") for value in values], dtype=bool)
    for split in dict.fromkeys(splits):
        of_split = np.array([each == split for each in splits])
        n_without = int((of_split & ~has).sum())
        if 0 < n_without < of_split.sum() or (n_without and split == "train"):
            first = name(int(np.flatnonzero(of_split & ~has)[0]))
            raise ValueError(f"{n_without:,} of {of_split.sum():,} {split or 'images'} have no label, first {first}")
    return np.flatnonzero(has)

"""``predictions.json``: what the full backbone and the shipped file said of every test image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune_tool.store.atomic import write_json
from prune_tool.store.layout import RunFolder

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Classes of the test images, by each file run through ONNX Runtime; entry by entry the same image.

    Attributes:
        model_sha256: of the ``model.onnx`` that predicted ``kept``.
        rows: image numbers in the source.
        labels: true classes.
        full: classes that the full backbone predicts.
        kept: classes that the shipped file predicts.
    """

    model_sha256: str
    rows: tuple[int, ...]
    labels: tuple[int, ...]
    full: tuple[int, ...]
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        if len({len(self.rows), len(self.labels), len(self.full), len(self.kept)}) != 1:
            raise ValueError("rows, labels, full and kept are not of one length")

    @property
    def lost(self) -> tuple[int, ...]:
        """Entries that full gets right and kept wrong."""
        return self._entries(lambda label, full, kept: full == label != kept)

    @property
    def won(self) -> tuple[int, ...]:
        """Entries that kept gets right and full wrong."""
        return self._entries(lambda label, full, kept: kept == label != full)

    @property
    def both_wrong(self) -> tuple[int, ...]:
        """Entries that both get wrong, each in its own way."""
        return self._entries(lambda label, full, kept: len({label, full, kept}) == 3)

    def _entries(self, are_such: Callable[[int, int, int], bool]) -> tuple[int, ...]:
        seen = zip(self.labels, self.full, self.kept, strict=True)
        return tuple(i for i, classes in enumerate(seen) if are_such(*classes))


def write_predictions(
    run: RunFolder, model_sha256: str, rows: Indices, labels: Indices, full: Indices, kept: Indices
) -> None:
    """Write ``predictions.json``; arrays (n,) int64 as in ``Predictions``. Raises ``RunError`` where it cannot be."""
    columns = (tuple(column.tolist()) for column in (rows, labels, full, kept))
    names = ("rows", "labels", "full", "kept")
    write_json(run.predictions, Predictions(model_sha256=model_sha256, **dict(zip(names, columns, strict=True))))


def confusion(labels: tuple[int, ...], predicted: tuple[int, ...], n_classes: int) -> Indices:
    """(c, c) int64 counts: how often an image of the row's class was given the column's."""
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts, (np.array(labels, dtype=np.int64), np.array(predicted, dtype=np.int64)), 1)
    return counts

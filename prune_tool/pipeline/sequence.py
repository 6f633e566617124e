"""Testing from safe to cheap on the test images: by candidates' neurons, or by files' own predictions.

Which of the two depends on the form alone. A float32 file says what its neurons say, so one pass over the test images
tests every candidate and one file is built. Any other form is not what was measured, so the files themselves are
tested: they are all built before the first test image is read, and few enough that a bad one costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from prune_tool import defaults
from prune_tool.deploy.verify import Logits
from prune_tool.errors import BudgetError
from prune_tool.frontier.certificate import DropTest
from prune_tool.frontier.fixed_sequence import fixed_sequence
from prune_tool.pipeline.build import Shippable
from prune_tool.pipeline.features import Features, FitData, Indices
from prune_tool.pipeline.feeding import logits_of
from prune_tool.pipeline.probing import fit_probe, subset_of
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Candidate

T = TypeVar("T")

Make = Callable[[Candidate, Path], Shippable]
"""Builds a candidate in a new folder of that path."""
Test = Callable[[Indices], DropTest]
"""Tests predicted classes (n,) of the test images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an order.

    Attributes:
        tested: candidates and the outcome of each one's test, safest first; all but possibly the last passed.
        shipped: the last that passed; where none did, the cheapest of all.
        logits: (n_test, classes) of the shipped file itself.
    """

    tested: tuple[tuple[Candidate, DropTest], ...]
    shipped: Shippable
    logits: Logits

    @property
    def none_passed(self) -> bool:
        """Whether the safest failed already, so that nothing may be claimed of what ships."""
        return not self.tested[0][1].passed


class NeuronsOnTest:
    """The test images' neurons, extracted once for all candidates of an export.

    Args:
        workspace: of the run.
        analysis: of the run.
        data: training and validation features, which probes are fitted on.
        candidates: whose neurons will be asked for.
    """

    def __init__(
        self, workspace: Workspace, analysis: Analysis, data: FitData, candidates: Sequence[Candidate]
    ) -> None:
        self._workspace, self._data = workspace, data
        self._readings = {c: analysis.measured[c.reading].reading for c in candidates}
        trunks = {reading.trunk for reading in self._readings.values()}
        subjects = [subject for subject in workspace.subjects if subject.trunk in trunks]
        self._features = Features(workspace, subjects, workspace.splits.test)
        self._predicted: dict[Candidate, Indices] = {}

    def predict(self, candidate: Candidate) -> Indices:
        """Classes (n_test,) by a candidate's probe."""
        if candidate not in self._predicted:
            reading = self._readings[candidate]
            subset = subset_of(self._workspace, self._data, reading, candidate.n_neurons)
            probe = fit_probe(self._data, reading.trunk, subset, (candidate.strength,))
            rows = np.arange(len(self._workspace.splits.test))
            blocks = self._features.blocks(reading.trunk, subset, rows)
            self._predicted[candidate] = np.concatenate([probe.predict(neurons) for _, neurons in blocks])
        return self._predicted[candidate]


def by_neurons(
    workspace: Workspace,
    neurons: NeuronsOnTest,
    order: Sequence[Candidate],
    *,
    test: Test,
    make: Callable[[Candidate], Shippable],
) -> Outcome:
    """Test candidates by their neurons and build the one that ships."""
    tests = fixed_sequence(partial(_after, test, partial(neurons.predict, candidate)) for candidate in order)
    shipped = make(order[_last_passed(tests)])
    return Outcome(
        tested=tuple(zip(order, tests, strict=False)),
        shipped=shipped,
        logits=logits_on_test(workspace, shipped),
    )


def by_files(workspace: Workspace, files: Sequence[Shippable], *, test: Test) -> Outcome:
    """Test files, from safe to cheap, by their own predictions."""
    logits: dict[int, Logits] = {}

    def predict(place: int) -> Indices:
        logits[place] = logits_on_test(workspace, files[place])
        return np.asarray(logits[place].argmax(axis=1))

    tests = fixed_sequence(partial(_after, test, partial(predict, place)) for place in range(len(files)))
    place = _last_passed(tests) % len(files)
    if place not in logits:
        predict(place)
    return Outcome(
        tested=tuple((file.built.candidate, done) for file, done in zip(files, tests, strict=False)),
        shipped=files[place],
        logits=logits[place],
    )


def _after(test: Test, predict: Callable[[], Indices]) -> DropTest:
    return test(predict())


def _last_passed(tests: Sequence[DropTest]) -> int:
    """Place of the last that passed; -1, the cheapest of the whole order, where none did."""
    return sum(test.passed for test in tests) - 1


def settle(workspace: Workspace, order: Sequence[Candidate], make: Make, folder: Path) -> list[Shippable]:
    """Build the files that will be tested; those that cannot keep the validation accuracy are left out.

    Raises:
        BudgetError: none can.
    """
    files: list[Shippable] = []
    refused: BudgetError | None = None
    for number, candidate in enumerate(thin(order)):
        try:
            files.append(make(candidate, folder / str(number)))
        except BudgetError as error:
            workspace.progress.note(f"leaving out the file of {candidate.n_neurons:,} neurons: {error.found}")
            refused = refused or error
    if refused is not None and not files:
        raise refused
    return files


def thin(order: Sequence[T]) -> list[T]:
    """At most ``MAX_FILES`` of an order: its ends and those evenly between."""
    n = min(len(order), defaults.MAX_FILES)
    return [order[i] for i in np.linspace(0, len(order) - 1, n).round().astype(int)]


def logits_on_test(workspace: Workspace, file: Shippable) -> Logits:
    """(n_test, classes) of a file, run through ONNX Runtime by itself on the test images."""
    preprocessing = workspace.subject(file.built.reading.trunk).backbone.preprocessing
    return logits_of(
        workspace,
        workspace.splits.test,
        file.folder.model,
        preprocessing,
        preprocess=file.built.form.preprocess,
        title="testing the file",
    )

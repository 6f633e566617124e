"""``export``: the cheapest network within the budget, cut for real, written, proven and certified.

The order of work keeps the test images clean: the candidates and their order are settled on training and validation
images; only then is the first test image read, and from there on nothing is chosen, only tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.deploy.session import open_session
from prune_tool.deploy.verify import Parity, predict
from prune_tool.errors import UsageError
from prune_tool.frontier.certificate import (
    Certificate,
    DropTest,
    certify,
    fixed_sequence,
    test_balanced_drop,
    test_drop,
)
from prune_tool.frontier.choice import safe_to_cheap, smallest_size, within_budget
from prune_tool.pipeline.analyze import measure_full, probe_front
from prune_tool.pipeline.build import Built, build, build_full
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.features import FitData, Indices, features_of, fit_data
from prune_tool.pipeline.measure import columns
from prune_tool.pipeline.predictions import write_predictions
from prune_tool.pipeline.probing import fit_probe, probe_candidate, subset_of
from prune_tool.pipeline.runs import RunRecord, read_analysis, read_candidates, read_record, require_same
from prune_tool.pipeline.workspace import Subject, Workspace, n_threads
from prune_tool.records import Analysis, Budget, Candidate
from prune_tool.redundancy.fairness import Fairness, compare_classes
from prune_tool.store.atomic import write_json
from prune_tool.store.fingerprint import file_fingerprint
from prune_tool.store.layout import RunFolder
from prune_tool.surgery.taps import HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What ``export`` wrote; stands in ``certificate.json``.

    Attributes:
        sentence: the certificate for people.
        certificate: of the file's own predictions on the test images.
        tested: every candidate tried, safest first, with the outcome of its test on the same images' neurons.
        fairness: accuracy class by class of the file and of the full backbone, on the test images.
        built: what was shipped: recipe, parity and sizes.
        full_parity: ONNX Runtime against PyTorch for the full backbone.
        model_sha256: of ``model.onnx``.
        taps: the restriction asked for, as in ``export``.
    """

    sentence: str
    certificate: Certificate
    tested: tuple[tuple[Candidate, DropTest], ...]
    fairness: Fairness
    built: Built
    full_parity: Parity
    model_sha256: str
    taps: str | None


def export(
    workspace: Workspace,
    run: RunFolder,
    *,
    budget: Budget,
    confidence: float = defaults.CONFIDENCE,
    taps: str | None = None,
) -> Exported:
    """Write the cheapest network of a run that keeps accuracy within the budget.

    Args:
        workspace: of the run's request.
        run: from ``analyze``.
        budget: the loss allowed, relative to the full backbone.
        confidence: one-sided, of the certificate.
        taps: ``None`` for all, ``last`` for the penultimate layer alone, or names separated by commas.

    Returns:
        What was written. Where no candidate could be certified it is the cheapest that meets the budget on the
        validation images, and its certificate says that it is not certified.

    Raises:
        BudgetError: nothing meets the budget on the validation images.
        VerificationError: a written file does not compute what it should.
        RunError: the run is damaged, or model or images have changed since.
    """
    record, analysis = read_record(run), read_analysis(run)
    require_same(workspace, record, run)
    allowed = _allowed(taps, analysis)
    data = fit_data(workspace)
    order = _candidates_to_test(workspace, run, analysis, data, budget, allowed)
    full_parity = build_full(workspace, run, measure_full(workspace, data)[1])
    labels = workspace.source.labels[workspace.splits.test]
    full = predict_on_test(workspace, workspace.native, run.full, "testing the full backbone")

    def drop(predicted: Indices) -> DropTest:
        correct = full == labels, predicted == labels
        if workspace.request.metric == "accuracy":
            return test_drop(*correct, budget, 1 - confidence)
        return test_balanced_drop(labels, *correct, budget, 1 - confidence)

    predictions = _on_test_images(workspace, analysis, data, order)
    sequence = fixed_sequence(partial(_after, drop, predict) for predict in predictions)
    shipped = order[sequence.n_passed - 1]  # the last that passed; where none did, -1: the cheapest, uncertified
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".partial-") as scratch:
        folder = RunFolder(Path(scratch))
        built = build(workspace, data, analysis, shipped, folder, _metadata(record, analysis, budget))
        subject = workspace.subject(built.reading.input_size)
        kept = predict_on_test(workspace, subject, folder.model, "testing the file")
        certificate = certify(drop(kept), after_failure=sequence.n_passed == 0)
        _move(folder, run)
    exported = Exported(
        sentence=certificate.sentence(),
        certificate=certificate,
        tested=tuple(zip(order, sequence.tests, strict=False)),
        fairness=compare_classes(labels, full, kept, data.n_classes),
        built=built,
        full_parity=full_parity,
        model_sha256=file_fingerprint(run.model),
        taps=taps,
    )
    write_predictions(run, exported.model_sha256, workspace.splits.test, labels, full, kept)
    write_json(run.certificate, exported)
    return exported


def _after(test: Callable[[Indices], DropTest], predict: Callable[[], Indices]) -> DropTest:
    return test(predict())


def _on_test_images(
    workspace: Workspace, analysis: Analysis, data: FitData, order: Sequence[Candidate]
) -> Iterator[Callable[[], Indices]]:
    """For each candidate, a function that predicts the classes (n,) of the test images.

    One pass over the test images serves all of them: the candidates' neurons are columns of the same taps. The file
    that ships is run on the images by itself afterwards.
    """
    sizes = {analysis.measured[candidate.reading].reading.input_size for candidate in order}
    subjects = [subject for subject in workspace.subjects if subject.input_size in sizes]
    features = features_of(workspace, subjects, workspace.splits.test)

    def predict(candidate: Candidate) -> Indices:
        reading = analysis.measured[candidate.reading].reading
        subset = subset_of(workspace, data, reading, candidate.n_neurons)
        probe = fit_probe(data, reading.input_size, subset, (candidate.strength,))
        return probe.predict(columns(partial(features, reading.input_size), subset))

    return (partial(predict, candidate) for candidate in order)


def predict_on_test(workspace: Workspace, subject: Subject, model: Path, title: str) -> Indices:
    """Classes (n,) that a written file gives the test images, run through ONNX Runtime by itself."""
    session = open_session(model, n_threads=n_threads(), spin=False)
    rows = workspace.splits.test
    with workspace.progress.stage(title, len(rows)) as advance:

        def batches() -> Iterator[NDArray[np.float32]]:
            for images in images_of(workspace.source, rows, subject.backbone.preprocessing):
                yield images
                advance(len(images))

        return np.asarray(predict(session, batches()).argmax(axis=1))


def _candidates_to_test(
    workspace: Workspace,
    run: RunFolder,
    analysis: Analysis,
    data: FitData,
    budget: Budget,
    allowed: frozenset[str] | None,
) -> list[Candidate]:
    """From safe to cheap; the cheapest is shrunk to the smallest subset that meets the budget on validation images."""
    candidates = read_candidates(run) if allowed is None else probe_front(workspace, data, analysis.measured, allowed)
    full = analysis.full.val

    def name(candidate: Candidate) -> str:
        return str(analysis.measured[candidate.reading].reading)

    eligible = within_budget(candidates, full, budget, name)
    found = {eligible[0].n_neurons: eligible[0]}

    def meets(n_neurons: int) -> bool:
        cheapest = eligible[0]
        reading = analysis.measured[cheapest.reading].reading
        found[n_neurons] = probe_candidate(workspace, data, cheapest.reading, reading, n_neurons, (cheapest.strength,))
        return budget.is_met(found[n_neurons].val, full)

    with workspace.progress.stage("finding the smallest subset"):
        last = found[smallest_size(meets, eligible[0].n_neurons)]
    return safe_to_cheap(eligible, last)


def _move(source: RunFolder, run: RunFolder) -> None:
    """Move the shipped files into the run folder, where no certificate may speak of others meanwhile."""
    run.certificate.unlink(missing_ok=True)
    source.model.replace(run.model)
    source.program.replace(run.program)
    source.labels.replace(run.labels)


def _allowed(taps: str | None, analysis: Analysis) -> frozenset[str] | None:
    if taps is None or taps == "all":
        return None
    known = {tap for measured in analysis.measured for tap in measured.reading.taps}
    names = frozenset({HEAD} if taps == "last" else taps.split(","))
    unknown = names - known
    if unknown:
        raise UsageError(
            asked=f"--taps {taps}",
            found=f"this run has no tap {', '.join(sorted(unknown))}",
            remedy=f"It has {', '.join(sorted(known))}; `last` is {HEAD}",
        )
    return names


def _metadata(record: RunRecord, analysis: Analysis, budget: Budget) -> dict[str, str]:
    return {
        "prune_tool.version": record.versions["prune-tool"],
        "prune_tool.model": record.model,
        "prune_tool.model_fingerprint": record.model_fingerprint,
        "prune_tool.data": record.data,
        "prune_tool.data_fingerprint": record.data_fingerprint,
        "prune_tool.budget": str(budget),
        "prune_tool.metric": record.request.metric,
        "prune_tool.seed": str(record.request.seed),
        "prune_tool.full_macs": str(analysis.full.macs),
    }

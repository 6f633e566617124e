"""``export``: the cheapest network within the budget, cut for real, written, proven and certified.

The order of work keeps the test images clean: the candidates and their order are settled on training and validation
images; only then is the first test image read, and from there on nothing is chosen, only tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.deploy.onnx_file import add_probabilities, update_metadata
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
from prune_tool.frontier.choice import most_accurate, safe_to_cheap, smallest_size, within_budget
from prune_tool.frontier.screen import front
from prune_tool.pipeline.analyze import measure_full, probe_near
from prune_tool.pipeline.build import Built, build, build_full
from prune_tool.pipeline.card import write_card
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.features import Features, FitData, Indices, fit_data
from prune_tool.pipeline.metadata import full_entries, shipped_entries, source_entries
from prune_tool.pipeline.predictions import write_predictions
from prune_tool.pipeline.probing import fit_probe, probe_candidate, subset_of
from prune_tool.pipeline.runs import RunRecord, read_analysis, read_candidates, read_record, require_same
from prune_tool.pipeline.workspace import Subject, Workspace, n_threads
from prune_tool.records import Analysis, Budget, Candidate, Limit
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
    limits: Sequence[Limit] = (),
    probabilities: bool = False,
) -> Exported:
    """Write the cheapest network of a run that keeps accuracy within the budget.

    Args:
        workspace: of the run's request.
        run: from ``analyze``.
        budget: the loss allowed, relative to the full backbone.
        confidence: one-sided, of the certificate.
        limits: what the file may cost at most. With any, the most accurate candidate within them ships, and the budget
            is only what its certificate speaks of.
        taps: ``None`` for all, ``last`` for the penultimate layer alone, or names separated by commas.
        probabilities: give the file a second output, the softmax of ``logits``.

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
    probed = read_candidates(run) if allowed is None else probe_near(workspace, data, analysis.measured, allowed)[0]
    order = _candidates_to_test(workspace, analysis, data, budget, probed, limits)
    full_parity = build_full(workspace, run, measure_full(workspace, data)[1])
    update_metadata(run.full, full_entries(record, analysis))
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
        if probabilities:
            add_probabilities(folder.model)
        subject = workspace.subject(built.reading.input_size)
        kept = predict_on_test(workspace, subject, folder.model, "testing the file")
        certificate = certify(drop(kept), after_failure=sequence.n_passed == 0)
        n_bytes = update_metadata(folder.model, shipped_entries(certificate, built.candidate))
        _move(folder, run)
    exported = Exported(
        sentence=certificate.sentence(),
        certificate=certificate,
        tested=tuple(zip(order, sequence.tests, strict=False)),
        fairness=compare_classes(labels, full, kept, data.n_classes),
        built=replace(built, n_bytes=n_bytes),
        full_parity=full_parity,
        model_sha256=file_fingerprint(run.model),
        taps=taps,
    )
    write_predictions(run, exported.model_sha256, workspace.splits.test, labels, full, kept)
    write_json(run.certificate, exported)
    write_card(run)
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
    features = Features(workspace, subjects, workspace.splits.test)
    rows = np.arange(len(workspace.splits.test))

    def predict(candidate: Candidate) -> Indices:
        reading = analysis.measured[candidate.reading].reading
        subset = subset_of(workspace, data, reading, candidate.n_neurons)
        probe = fit_probe(data, reading.input_size, subset, (candidate.strength,))
        blocks = features.blocks(reading.input_size, subset, rows)
        return np.concatenate([probe.predict(neurons) for _, neurons in blocks])

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
    analysis: Analysis,
    data: FitData,
    budget: Budget,
    probed: Sequence[Candidate],
    limits: Sequence[Limit],
) -> list[Candidate]:
    """From safe to cheap; the cheapest is shrunk to the smallest subset that meets the budget on validation images.

    With limits, the one most accurate candidate within them.
    """
    cost = workspace.request.cost
    candidates = front(probed, cost)
    full = analysis.full.val

    def name(candidate: Candidate) -> str:
        return str(analysis.measured[candidate.reading].reading)

    if limits:
        return [most_accurate(probed, _measurable(limits, analysis), name)]
    eligible = within_budget(candidates, full, budget, name)
    found = {eligible[0].n_neurons: eligible[0]}

    def meets(n_neurons: int) -> bool:
        cheapest = eligible[0]
        reading = analysis.measured[cheapest.reading].reading
        smaller = probe_candidate(workspace, data, cheapest.reading, reading, n_neurons, (cheapest.strength,))
        found[n_neurons] = replace(smaller, latency_ms=_scaled(cheapest, smaller.macs))
        return budget.is_met(found[n_neurons].val, full)

    with workspace.progress.stage("finding the smallest subset"):
        last = found[smallest_size(meets, eligible[0].n_neurons)]
    return safe_to_cheap(eligible, last, cost)


def _measurable(limits: Sequence[Limit], analysis: Analysis) -> Sequence[Limit]:
    if analysis.timed is None and any(limit.kind == "latency" for limit in limits):
        raise UsageError(
            asked="a limit on latency",
            found="a run that did not measure it",
            remedy="Run `prune-tool analyze` again with --cost latency",
        )
    return limits


def _scaled(candidate: Candidate, macs: int) -> float | None:
    """Latency of a smaller subset of the same reading."""
    return None if candidate.latency_ms is None else candidate.latency_ms * macs / candidate.macs


def _move(source: RunFolder, run: RunFolder) -> None:
    """Move the shipped files into the run folder, where nothing that speaks of others may stay."""
    for stale in (run.certificate, run.model_card, run.bench):
        stale.unlink(missing_ok=True)
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
    return source_entries(record) | {
        "prune_tool.budget": str(budget),
        "prune_tool.metric": record.request.metric,
        "prune_tool.seed": str(record.request.seed),
        "prune_tool.full_macs": str(analysis.full.macs),
    }

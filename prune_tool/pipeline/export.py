"""``export``: the cheapest network within the budget, cut for real, written, proven and certified.

The order of work keeps the test images clean: the candidates and their order are settled on training and validation
images; only then is the first test image read, and from there on nothing is chosen, only tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from prune_tool import defaults
from prune_tool.deploy import preprocess as graphs
from prune_tool.deploy.interleaving import Interval
from prune_tool.deploy.onnx_file import update_metadata
from prune_tool.deploy.verify import Stage, compare
from prune_tool.errors import UsageError
from prune_tool.frontier.certificate import Certificate, DropTest, certify, test_balanced_drop, test_drop
from prune_tool.frontier.choice import most_accurate, safe_to_cheap, smallest_size, within_budget
from prune_tool.frontier.screen import front
from prune_tool.pipeline.analyze import measure_full, probe_near
from prune_tool.pipeline.build import Built, FullInt8, Order, Shippable, build, build_full, quantise_full
from prune_tool.pipeline.card import write_card
from prune_tool.pipeline.features import FitData, Indices, fit_data
from prune_tool.pipeline.feeding import logits_of
from prune_tool.pipeline.metadata import full_entries, shipped_entries, source_entries
from prune_tool.pipeline.predictions import write_predictions
from prune_tool.pipeline.probing import probe_candidate
from prune_tool.pipeline.runs import RunRecord, read_analysis, read_candidates, read_record, require_same
from prune_tool.pipeline.sequence import Outcome, by_files, by_neurons, settle
from prune_tool.pipeline.speed import speedup, warning
from prune_tool.pipeline.transform import Transformed
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Budget, Candidate, Form, Limit, Score
from prune_tool.redundancy.fairness import Fairness, compare_classes
from prune_tool.redundancy.held_out import score_of
from prune_tool.store.atomic import PARTIAL_PREFIX, write_json
from prune_tool.store.fingerprint import file_fingerprint
from prune_tool.store.layout import RunFolder
from prune_tool.surgery.taps import HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What ``export`` wrote; stands in ``certificate.json``.

    Attributes:
        sentence: the certificate for people.
        certificate: of the file's own predictions on the test images.
        tested: every candidate tried, safest first, with the outcome of its test: of its neurons on the same images
            for a float32 file that takes images in [0, 1], of its file's own predictions for any other form.
        fairness: accuracy class by class of the file and of the full backbone, on the test images.
        built: what was shipped: recipe, form, what each step changed, and sizes.
        full_parity: ONNX Runtime against PyTorch for the full backbone.
        full_int8: the full backbone as int8, where the file is.
        precision_speedup: how many times faster the file's network is than the same in float32, here, at batch 1;
            None for float32.
        warnings: what whoever ships the file should know.
        model_sha256: of ``model.onnx``.
        taps, limits: the restrictions asked for, as in ``export``.
    """

    sentence: str
    certificate: Certificate
    tested: tuple[tuple[Candidate, DropTest], ...]
    fairness: Fairness
    built: Built
    full_parity: Stage
    full_int8: FullInt8 | None
    precision_speedup: Interval | None
    warnings: tuple[str, ...]
    model_sha256: str
    taps: str | None
    limits: tuple[Limit, ...]


def export(
    workspace: Workspace,
    run: RunFolder,
    *,
    budget: Budget,
    confidence: float = defaults.CONFIDENCE,
    taps: str | None = None,
    limits: Sequence[Limit] = (),
    form: Form = Form(),  # noqa: B008 - frozen
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
        form: precision and outputs of the file, and what it does to an image before the network.

    Returns:
        What was written. Where no candidate could be certified it is the cheapest that meets the budget on the
        validation images, and its certificate says that it is not certified.

    Raises:
        BudgetError: nothing meets the budget on the validation images, in that precision.
        VerificationError: a written file does not compute what it should. The run folder is as it was.
        RunError: the run is damaged, or model or images have changed since.
        UsageError: the form cannot be had of this backbone.
    """
    record, analysis = read_record(run), read_analysis(run)
    require_same(workspace, record, run)
    if form.preprocess == "graph":
        graphs.require_expressible(workspace.native.backbone.preprocessing)
    data = fit_data(workspace)
    allowed = _allowed(taps, analysis)
    probed = read_candidates(run) if allowed is None else probe_near(workspace, data, analysis.measured, allowed)[0]
    order = _candidates_to_test(workspace, analysis, data, budget, probed, limits)
    with tempfile.TemporaryDirectory(dir=run.path, prefix=PARTIAL_PREFIX) as scratch:
        work = RunFolder(Path(scratch))
        full_parity = build_full(workspace, work, measure_full(workspace, data)[1])
        update_metadata(work.full, full_entries(record, analysis))
        asked = Order(form=form, budget=budget, metadata=_metadata(record, analysis, budget))

        def make(candidate: Candidate, folder: Path) -> Shippable:
            folder.mkdir()
            return build(workspace, data, analysis, candidate, RunFolder(folder), asked)

        files = None if form.is_plain else settle(workspace, order, make, work.path)
        int8 = quantise_full(workspace, work) if form.precision == "int8" else None
        # from here on test images are read, and nothing is chosen any more
        full = _full_on_test(workspace, work.full, "testing the full backbone")
        test = partial(_drop, workspace, full, budget, confidence)
        if files is None:
            ship = partial(make, folder=work.path / "shipped")
            outcome = by_neurons(workspace, analysis, data, order, test=test, make=ship)
        else:
            outcome = by_files(workspace, files, test=test)
        built, kept = _agreed(workspace, outcome), outcome.logits.argmax(axis=1)
        certificate = certify(test(kept), after_failure=outcome.none_passed)
        faster = _faster(workspace, outcome.shipped)
        slower = None if faster is None else warning(form.precision, faster)
        shipped = outcome.shipped.folder
        n_bytes = update_metadata(shipped.model, shipped_entries(certificate, built.candidate))
        labels = workspace.source.labels[workspace.splits.test]
        exported = Exported(
            sentence=certificate.sentence(),
            certificate=certificate,
            tested=outcome.tested,
            fairness=compare_classes(labels, full, kept, data.n_classes),
            built=replace(built, n_bytes=n_bytes),
            full_parity=full_parity,
            full_int8=None if int8 is None else _full_int8(workspace, work, int8),
            precision_speedup=faster,
            warnings=() if slower is None else (slower,),
            model_sha256=file_fingerprint(shipped.model),
            taps=taps,
            limits=tuple(limits),
        )
        _move(work, shipped, run)
    write_predictions(run, exported.model_sha256, workspace.splits.test, labels, full, kept)
    write_json(run.certificate, exported)
    write_card(run)
    for each in exported.warnings:
        workspace.progress.note(each)
    return exported


def _drop(workspace: Workspace, full: Indices, budget: Budget, confidence: float, kept: Indices) -> DropTest:
    """Test predicted classes ``kept`` of the test images against the full backbone's."""
    labels = workspace.source.labels[workspace.splits.test]
    correct = full == labels, kept == labels
    if workspace.request.metric == "accuracy":
        return test_drop(*correct, budget, 1 - confidence)
    return test_balanced_drop(labels, *correct, budget, 1 - confidence)


def _full_on_test(workspace: Workspace, path: Path, title: str) -> Indices:
    """Classes (n_test,) that a file of the full backbone gives the test images."""
    preprocessing = workspace.native.backbone.preprocessing
    logits = logits_of(workspace, workspace.splits.test, path, preprocessing, title=title)
    return np.asarray(logits.argmax(axis=1))


def _full_int8(workspace: Workspace, work: RunFolder, made: Transformed) -> FullInt8:
    labels = workspace.source.labels[workspace.splits.test]
    predicted = _full_on_test(workspace, work.full_int8, "testing the full backbone as int8")
    return FullInt8(stage=made.stages[-1], test=score_of(labels, predicted, workspace.request.metric))


def _agreed(workspace: Workspace, outcome: Outcome) -> Built:
    """The record of what ships, with the agreement with timm's transform on the test images where it resizes.

    Raises:
        VerificationError: fewer images keep their first class than must.
    """
    shipped = outcome.shipped
    built = shipped.built
    if built.agreement is None:
        return built
    preprocessing = workspace.subject(built.reading.trunk).backbone.preprocessing
    title = "comparing with timm's transform"
    pillow = logits_of(workspace, workspace.splits.test, shipped.pillow.path, preprocessing, title=title)
    stage = compare(graphs.STAGE, pillow, outcome.logits, gate="top-1", tolerance=defaults.MIN_AGREEMENT)
    same = Score(n_correct=stage.n_top1_agree, n_images=stage.n_images)
    return replace(built, agreement=replace(built.agreement, test=same))


def _faster(workspace: Workspace, shipped: Shippable) -> Interval | None:
    """Speed of fewer bits, the file's own resizing aside; None for float32."""
    if shipped.built.form.precision == "fp32":
        return None
    with workspace.progress.stage("timing against float32"):
        return speedup(shipped.exported.path, shipped.pillow.path, shipped.built.reading.trunk.input_size)


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


def _move(work: RunFolder, shipped: RunFolder, run: RunFolder) -> None:
    """Move what was made into the run folder, where nothing that speaks of other files may stay."""
    for stale in (run.certificate, run.model_card, run.bench, run.full_int8):
        stale.unlink(missing_ok=True)
    shipped.model.replace(run.model)
    shipped.program.replace(run.program)
    shipped.labels.replace(run.labels)
    work.full.replace(run.full)
    if work.full_int8.is_file():
        work.full_int8.replace(run.full_int8)


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

"""``export``: the cheapest network within the budget, cut for real, written, proven and certified.

The order of work keeps the test images clean: the candidates and their order are settled on training and validation
images; only then is the first test image read, and from there on nothing is chosen, only tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prune_tool import defaults
from prune_tool.deploy import preprocess as graphs
from prune_tool.deploy.onnx_file import update_metadata
from prune_tool.deploy.verify import Stage
from prune_tool.pipeline.analyze import measure_full
from prune_tool.pipeline.build import FullInt8, Shippable, build_full, quantise_full
from prune_tool.pipeline.choosing import candidates_to_test, open_pool
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.job import Job, Terms
from prune_tool.pipeline.metadata import full_entries
from prune_tool.pipeline.runs import read_analysis, read_candidates, read_record, require_same
from prune_tool.pipeline.sequence import Outcome, by_files, by_neurons, settle
from prune_tool.pipeline.shipping import deliver, seal
from prune_tool.pipeline.transform import Transformed
from prune_tool.pipeline.trial import Trial, open_trial
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Candidate, Form, Limit
from prune_tool.store.atomic import PARTIAL_PREFIX
from prune_tool.store.layout import RunFolder


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
    job = _open_job(workspace, run, Terms(confidence=confidence, taps=taps, limits=tuple(limits), form=form))
    pool = open_pool(workspace, job.data, job.analysis, read_candidates(run), taps)
    order = candidates_to_test(pool, budget, limits)
    with tempfile.TemporaryDirectory(dir=run.path, prefix=PARTIAL_PREFIX) as scratch:
        work = RunFolder(Path(scratch))
        full_parity = _write_full(job, work)
        files = _settled_files(job, budget, order, work.path)
        int8 = quantise_full(workspace, work) if form.precision == "int8" else None
        trial = open_trial(workspace, work.full, confidence)
        outcome = _tested(job, budget, order, files, trial, work.path)
        exported = seal(job, budget, trial, outcome, full_parity=full_parity, full_int8=_tested_int8(trial, work, int8))
        deliver(run, work, trial, outcome, exported)
    for each in exported.warnings:
        workspace.progress.note(each)
    return exported


def _open_job(workspace: Workspace, run: RunFolder, terms: Terms) -> Job:
    """Read the run, and refuse what cannot be had before anything is computed."""
    record, analysis = read_record(run), read_analysis(run)
    require_same(workspace, record, run)
    if terms.form.preprocess == "graph":
        graphs.require_expressible(workspace.native.backbone.preprocessing)
    return Job(workspace=workspace, record=record, analysis=analysis, data=fit_data(workspace), terms=terms)


def _write_full(job: Job, work: RunFolder) -> Stage:
    """Write the full backbone, proven against PyTorch."""
    parity = build_full(job.workspace, work, measure_full(job.workspace, job.data)[1])
    update_metadata(work.full, full_entries(job.record, job.analysis))
    return parity


def _settled_files(job: Job, budget: Budget, order: Sequence[Candidate], folder: Path) -> list[Shippable] | None:
    """The files that will be tested; None where neurons are, and the file is built afterwards."""
    if job.terms.form.is_plain:
        return None
    return settle(job.workspace, order, partial(job.make, budget), folder)


def _tested(
    job: Job,
    budget: Budget,
    order: Sequence[Candidate],
    files: Sequence[Shippable] | None,
    trial: Trial,
    folder: Path,
) -> Outcome:
    """The sequence of a budget, on the test images."""
    test = partial(trial.drop, budget)
    if files is not None:
        return by_files(job.workspace, files, test=test)
    make = partial(job.make, budget, folder=folder / "shipped")
    return by_neurons(job.workspace, job.analysis, job.data, order, test=test, make=make)


def _tested_int8(trial: Trial, work: RunFolder, made: Transformed | None) -> FullInt8 | None:
    if made is None:
        return None
    score = trial.score(work.full_int8, "testing the full backbone as int8")
    return FullInt8(stage=made.stages[-1], test=score)

"""``export``: the cheapest network within the budget, cut for real, written, proven and certified.

The order of work keeps the test images clean: the candidates and their order are settled on training and validation
images, for all budgets; only then is the first test image read, and from there on nothing is chosen, only tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from prune_tool import defaults
from prune_tool.deploy import preprocess as graphs
from prune_tool.deploy.onnx_file import update_metadata
from prune_tool.deploy.verify import Stage
from prune_tool.errors import RunError, UsageError
from prune_tool.pipeline.analyze import measure_full
from prune_tool.pipeline.build import FullInt8, Shippable, build_full, quantise_full
from prune_tool.pipeline.choosing import Choice, choose, open_pool
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.fitting import first_within
from prune_tool.pipeline.job import Job, Terms, each_of
from prune_tool.pipeline.metadata import full_entries
from prune_tool.pipeline.precisions import require_choice, settle_precisions
from prune_tool.pipeline.runs import read_analysis, read_candidates, read_record, require_same
from prune_tool.pipeline.sequence import NeuronsOnTest, Outcome, by_files, by_neurons, settle
from prune_tool.pipeline.shipping import Sealed, put_alone, put_each, seal
from prune_tool.pipeline.transform import Transformed
from prune_tool.pipeline.trial import Trial, open_trial
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Form, Limit
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
    form: Form | Sequence[Form] = Form(),  # noqa: B008 - frozen
) -> Exported:
    """Write the cheapest network of a run that keeps accuracy within the budget.

    What an earlier export wrote into the run is replaced.

    Args:
        workspace: of the run's request.
        run: from ``analyze``.
        budget: the loss allowed, relative to the full backbone.
        confidence: one-sided, of the certificate.
        limits: what the file may cost at most. With any, the most accurate candidate within them ships, and the budget
            is only what its certificate speaks of. A limit on size is held against the file itself: where it is larger
            than was predicted, the next candidate is tried.
        taps: ``None`` for all, ``last`` for the penultimate layer alone, or names separated by commas.
        form: precision and outputs of the file, and what it does to an image before the network. Of several, which may
            differ in precision alone, the one ships whose file costs least within the budget: its latency against
            float32 is timed, its accuracy that of the file itself.

    Returns:
        What was written. Where no candidate could be certified it is the cheapest that meets the budget on the
        validation images, and its certificate says that it is not certified.

    Raises:
        BudgetError: nothing meets the budget on the validation images, in that precision.
        LimitError: nothing is within the limits.
        VerificationError: a written file does not compute what it should. The run folder is as it was.
        RunError: the run is damaged, or model or images have changed since.
        UsageError: the form cannot be had of this backbone.
    """
    terms = Terms(confidence=confidence, taps=taps, limits=tuple(limits), forms=each_of(form))
    job = open_job(workspace, run, terms)
    choice = choose(open_pool(job, read_candidates(run)), budget, limits)
    return ship(job, run, choice)


def export_each(
    workspace: Workspace,
    run: RunFolder,
    *,
    budgets: Sequence[Budget],
    confidence: float = defaults.CONFIDENCE,
    taps: str | None = None,
    form: Form | Sequence[Form] = Form(),  # noqa: B008 - frozen
) -> dict[RunFolder, Exported]:
    """Write one network for each budget, as ``export`` would, each into a folder of the run that is a run by itself.

    What the budgets have in common is done once: probes, the full backbone with its proof and its test, the test
    images' neurons. Every budget has an order of tests of its own at the full level, so each certificate holds at its
    confidence by itself; that all of them hold together is not claimed. All or none is written: where one budget
    cannot be met, none is.

    Args:
        workspace: of the run's request.
        run: from ``analyze``.
        budgets: at least one, each once.
        confidence: as for ``export``.
        taps: as for ``export``.
        form: as for ``export``.

    Returns:
        What was written, by the folder (named like its budget) where it stands, in the order of the budgets.

    Raises:
        BudgetError, VerificationError, RunError, UsageError: as for ``export``.
    """
    terms = Terms(confidence=confidence, taps=taps, limits=(), forms=each_of(form))
    job = open_job(workspace, run, terms)
    _require_places(run, budgets)
    pool = open_pool(job, read_candidates(run))
    choices = {budget.spelled: choose(pool, budget) for budget in budgets}
    with _scratch(run) as scratch:
        sealed = _sealed(job, choices, RunFolder(Path(scratch)))
        places = put_each(sealed, run, Path(scratch))
    exported = {place: each.exported for place, each in zip(places, sealed.values(), strict=True)}
    for each in exported.values():
        _warn(workspace, each)
    return exported


def open_job(workspace: Workspace, run: RunFolder, terms: Terms) -> Job:
    """Read the run, and refuse what cannot be had before anything is computed; errors as for ``export``."""
    record, analysis = read_record(run), read_analysis(run)
    if run.analysed != run:
        raise RunError(
            asked=f"export to {run.path}",
            found=f"it holds one of several budgets of {run.analysed.path}",
            remedy=f"Run `prune-tool export {run.analysed.path}` with all the budgets that it shall hold",
        )
    require_same(workspace, record, run)
    if len(terms.forms) > 1:
        require_choice(terms.forms, terms.limits, record.request)
    if terms.forms[0].preprocess == "graph":
        graphs.require_expressible(workspace.native.backbone.preprocessing)
    return Job(workspace=workspace, record=record, analysis=analysis, data=fit_data(workspace), terms=terms)


def ship(job: Job, run: RunFolder, choice: Choice) -> Exported:
    """Write what was chosen into the run; returns and errors as for ``export``."""
    with _scratch(run) as scratch:
        (sealed,) = _sealed(job, {choice.budget.spelled: choice}, RunFolder(Path(scratch))).values()
        put_alone(sealed, run)
    _warn(job.workspace, sealed.exported)
    return sealed.exported


def _scratch(run: RunFolder) -> tempfile.TemporaryDirectory[str]:
    """A folder inside the run that goes when the export ends, well or not."""
    return tempfile.TemporaryDirectory(dir=run.path, prefix=PARTIAL_PREFIX)


def _warn(workspace: Workspace, exported: Exported) -> None:
    for each in exported.warnings:
        workspace.progress.note(each)


def _require_places(run: RunFolder, budgets: Sequence[Budget]) -> None:
    names = [budget.spelled for budget in budgets]
    if not names or len({*names}) < len(names):
        raise UsageError(
            asked=f"export at the budgets {', '.join(names) or 'of an empty list'}",
            found="none, or one of them twice",
            remedy="Give each budget once",
        )
    for name in names:
        place = run.at_budget(name)
        if place.path.exists() and place not in run.budgets:
            raise RunError(
                asked=f"write the file of the budget {name} to {place.path}",
                found="something else has that name",
                remedy="Move it away, or choose another budget",
            )


def _sealed(job: Job, choices: Mapping[str, Choice], work: RunFolder) -> dict[str, Sealed]:
    """Build, test and certify what was chosen, by the budgets' names, in folders below ``work``."""
    for spelled in choices:
        (work.path / spelled).mkdir()
    parity = _write_full(job, work)
    files = {spelled: _settled_files(job, choice, work.path / spelled) for spelled, choice in choices.items()}
    has_int8 = any(form.precision == "int8" for form in job.terms.forms)
    int8 = quantise_full(job.workspace, work) if has_int8 else None
    # from here on test images are read, and nothing is chosen any more
    trial = open_trial(job.workspace, work.full, job.terms.confidence)
    outcomes = _outcomes(job, choices, files, trial, work.path)
    full_int8 = _tested_int8(trial, work, int8)
    return {
        spelled: seal(job, choices[spelled].budget, trial, outcome, work, parity, full_int8)
        for spelled, outcome in outcomes.items()
    }


def _write_full(job: Job, work: RunFolder) -> Stage:
    """Write the full backbone, proven against PyTorch."""
    parity = build_full(job.workspace, work, measure_full(job.workspace, job.data)[1])
    update_metadata(work.full, full_entries(job.record, job.analysis))
    return parity


def _settled_files(job: Job, choice: Choice, folder: Path) -> list[Shippable]:
    """The files that will be tested; none where neurons are, and the file is built afterwards."""
    makes = {form.precision: partial(job.make, choice.budget, form) for form in job.terms.forms}
    if len(makes) > 1:
        return settle_precisions(job.workspace, choice.order, makes, folder)
    (form,), (make,) = job.terms.forms, makes.values()
    size = next((limit for limit in job.terms.limits if limit.kind == "size"), None)
    if size is not None:
        return [first_within((choice.candidate, *choice.or_else), make, folder, size, job.workspace.progress)]
    return [] if form.is_plain else settle(job.workspace, choice.order, make, folder)


def _outcomes(
    job: Job, choices: Mapping[str, Choice], files: Mapping[str, Sequence[Shippable]], trial: Trial, folder: Path
) -> dict[str, Outcome]:
    """Every budget's order of tests, on the same test images."""
    tests = {name: partial(trial.drop, choice.budget) for name, choice in choices.items()}
    if all(files.values()):
        return {name: by_files(job.workspace, files[name], test=test) for name, test in tests.items()}
    candidates = [candidate for choice in choices.values() for candidate in choice.order]
    neurons = NeuronsOnTest(job.workspace, job.analysis, job.data, candidates)
    return {
        name: by_neurons(
            job.workspace,
            neurons,
            choice.order,
            test=tests[name],
            make=partial(job.make, choice.budget, job.terms.forms[0], folder=folder / name / "shipped"),
        )
        for name, choice in choices.items()
    }


def _tested_int8(trial: Trial, work: RunFolder, made: Transformed | None) -> FullInt8 | None:
    if made is None:
        return None
    score = trial.score(work.full_int8, "testing the full backbone as int8")
    return FullInt8(stage=made.stages[-1], test=score)

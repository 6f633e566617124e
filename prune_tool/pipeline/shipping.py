"""From a tested file to what stands in the run folder: certified, sealed, described, and put there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from prune_tool.deploy.interleaving import Interval
from prune_tool.deploy.onnx_file import update_metadata
from prune_tool.deploy.verify import Stage
from prune_tool.frontier.certificate import certify
from prune_tool.pipeline.build import FullInt8, Shippable
from prune_tool.pipeline.card import write_card
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.fitting import require_within
from prune_tool.pipeline.job import Job
from prune_tool.pipeline.metadata import shipped_entries
from prune_tool.pipeline.predictions import write_predictions
from prune_tool.pipeline.sequence import Outcome
from prune_tool.pipeline.speed import priced, speedup, warning
from prune_tool.pipeline.trial import Trial
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget
from prune_tool.redundancy.fairness import compare_classes
from prune_tool.store.atomic import share, write_json
from prune_tool.store.fingerprint import file_fingerprint
from prune_tool.store.layout import RunFolder


@dataclass(frozen=True, kw_only=True, eq=False)
class Sealed:
    """A file that is ready to be put into a run.

    Attributes:
        exported: what is said of it.
        trial, outcome: how it was tested.
        full: holds the files of the full backbone, which it is compared with.
    """

    exported: Exported
    trial: Trial
    outcome: Outcome
    full: RunFolder

    def put(self, run: RunFolder) -> None:
        """Put the file and all that speaks of it into an analysed run. What spoke of another file there goes."""
        for stale in run.shipped:
            stale.unlink(missing_ok=True)
        shipped = self.outcome.shipped.folder
        for source, target in (
            (shipped.model, run.model),
            (shipped.program, run.program),
            (shipped.labels, run.labels),
            (self.full.full, run.full),
            (self.full.full_int8, run.full_int8),
        ):
            if source.is_file():
                share(source, target)
        trial, kept = self.trial, self.outcome.logits.argmax(axis=1)
        rows = trial.workspace.splits.test
        write_predictions(run, self.exported.model_sha256, rows, trial.labels, trial.full, kept)
        write_json(run.certificate, self.exported)
        write_card(run)


def seal(
    job: Job, budget: Budget, trial: Trial, outcome: Outcome, full: RunFolder, parity: Stage, int8: FullInt8 | None
) -> Sealed:
    """Certify the file of an outcome by its own predictions, and write the certificate into it.

    Args:
        job: the export.
        budget: what is certified.
        trial: on the test images.
        outcome: of the budget's order of tests.
        full: holds the files of the full backbone.
        parity: of the full backbone.
        int8: of the full backbone, where it was quantised.

    Raises:
        VerificationError: it resizes test images otherwise than timm's transform.
        LimitError: the certificate makes it larger than it may be.
    """
    built, kept = trial.agreed(outcome), outcome.logits.argmax(axis=1)
    certificate = certify(trial.drop(budget, kept), after_failure=outcome.none_passed)
    faster = outcome.shipped.faster or _faster(job.workspace, outcome.shipped)
    target = job.workspace.request.target
    # where precisions were chosen among, the candidate has its own cost already
    is_unpriced = built.form.precision != "fp32" and len(job.terms.forms) == 1
    slower = None if faster is None else warning(built.form.precision, faster, target)
    model = outcome.shipped.folder.model
    n_bytes = update_metadata(model, shipped_entries(certificate, built.candidate))
    require_within(n_bytes, job.terms.limits)
    candidate = priced(built.candidate, n_bytes, faster) if is_unpriced else built.candidate
    exported = Exported(
        sentence=certificate.sentence(),
        certificate=certificate,
        tested=outcome.tested,
        fairness=compare_classes(trial.labels, trial.full, kept, job.data.n_classes),
        built=replace(built, n_bytes=n_bytes, candidate=candidate),
        full_parity=parity,
        full_int8=int8,
        precision_speedup=faster,
        warnings=() if slower is None else (slower,),
        model_sha256=file_fingerprint(model),
        taps=job.terms.taps,
        precisions=tuple(form.precision for form in job.terms.forms),
        limits=job.terms.limits,
    )
    return Sealed(exported=exported, trial=trial, outcome=outcome, full=full)


def put_alone(sealed: Sealed, run: RunFolder) -> None:
    """Put the one file of an export into its run; files of several budgets that stood there go."""
    sealed.put(run)
    for other in run.budgets:
        shutil.rmtree(other.path)


def put_each(several: Mapping[str, Sealed], run: RunFolder, scratch: Path) -> tuple[RunFolder, ...]:
    """Put the files of several budgets into a run, each as a run by itself; a file that stood there alone goes.

    Args:
        several: by the budget's name.
        run: that was analysed.
        scratch: a folder beside, for what is not whole yet.
    """
    put = []
    for spelled, sealed in several.items():
        whole, place = RunFolder(scratch / f"put-{spelled}"), run.at_budget(spelled)
        whole.path.mkdir()
        for source, target in ((run.analysis, whole.analysis), (run.frontier, whole.frontier), (run.run, whole.run)):
            share(source, target)
        sealed.put(whole)
        if place.path.exists():
            place.path.rename(scratch / f"replaced-{spelled}")
        whole.path.rename(place.path)
        put.append(place)
    for other in run.budgets:
        if other not in put:
            shutil.rmtree(other.path)
    for stale in run.shipped:
        stale.unlink(missing_ok=True)
    return tuple(put)


def _faster(workspace: Workspace, shipped: Shippable) -> Interval | None:
    """Speed of fewer bits, the file's own resizing aside; None for float32."""
    if shipped.built.form.precision == "fp32":
        return None
    with workspace.progress.stage("timing against float32"):
        size, target = shipped.built.reading.trunk.input_size, workspace.request.target
        return speedup(shipped.exported.path, shipped.pillow.path, size, target)

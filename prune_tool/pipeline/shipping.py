"""From a tested file to what stands in the run folder: certified, sealed, moved, described."""

from __future__ import annotations

from dataclasses import replace

from prune_tool.deploy.interleaving import Interval
from prune_tool.deploy.onnx_file import update_metadata
from prune_tool.deploy.verify import Stage
from prune_tool.frontier.certificate import certify
from prune_tool.pipeline.build import FullInt8, Shippable
from prune_tool.pipeline.card import write_card
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.job import Job
from prune_tool.pipeline.metadata import shipped_entries
from prune_tool.pipeline.predictions import write_predictions
from prune_tool.pipeline.sequence import Outcome
from prune_tool.pipeline.speed import speedup, warning
from prune_tool.pipeline.trial import Trial
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget
from prune_tool.redundancy.fairness import compare_classes
from prune_tool.store.atomic import write_json
from prune_tool.store.fingerprint import file_fingerprint
from prune_tool.store.layout import RunFolder


def seal(
    job: Job, budget: Budget, trial: Trial, outcome: Outcome, *, full_parity: Stage, full_int8: FullInt8 | None
) -> Exported:
    """Certify the file of an outcome by its own predictions, and write the certificate into it.

    Raises:
        VerificationError: it resizes test images otherwise than timm's transform.
    """
    built, kept = trial.agreed(outcome), outcome.logits.argmax(axis=1)
    certificate = certify(trial.drop(budget, kept), after_failure=outcome.none_passed)
    faster = _faster(job.workspace, outcome.shipped)
    slower = None if faster is None else warning(built.form.precision, faster)
    model = outcome.shipped.folder.model
    n_bytes = update_metadata(model, shipped_entries(certificate, built.candidate))
    return Exported(
        sentence=certificate.sentence(),
        certificate=certificate,
        tested=outcome.tested,
        fairness=compare_classes(trial.labels, trial.full, kept, job.data.n_classes),
        built=replace(built, n_bytes=n_bytes),
        full_parity=full_parity,
        full_int8=full_int8,
        precision_speedup=faster,
        warnings=() if slower is None else (slower,),
        model_sha256=file_fingerprint(model),
        taps=job.terms.taps,
        limits=job.terms.limits,
    )


def deliver(run: RunFolder, full: RunFolder, trial: Trial, outcome: Outcome, exported: Exported) -> None:
    """Move a sealed file and those it is compared with into a run folder, and write what speaks of it beside.

    Args:
        run: where to.
        full: holds the files of the full backbone.
        trial: of the export.
        outcome: whose file it is.
        exported: what is said of it.
    """
    for stale in (run.certificate, run.model_card, run.bench, run.full_int8):  # they speak of other files
        stale.unlink(missing_ok=True)
    shipped = outcome.shipped.folder
    shipped.model.replace(run.model)
    shipped.program.replace(run.program)
    shipped.labels.replace(run.labels)
    full.full.replace(run.full)
    if full.full_int8.is_file():
        full.full_int8.replace(run.full_int8)
    kept = outcome.logits.argmax(axis=1)
    write_predictions(run, exported.model_sha256, trial.workspace.splits.test, trial.labels, trial.full, kept)
    write_json(run.certificate, exported)
    write_card(run)


def _faster(workspace: Workspace, shipped: Shippable) -> Interval | None:
    """Speed of fewer bits, the file's own resizing aside; None for float32."""
    if shipped.built.form.precision == "fp32":
        return None
    with workspace.progress.stage("timing against float32"):
        return speedup(shipped.exported.path, shipped.pillow.path, shipped.built.reading.trunk.input_size)

"""From a model and images to a certified file in three calls: ``analyze``, ``choose``, ``export``.

Everything here is said with other functions of this room; it is what a script or a notebook begins with.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from prune_tool import defaults
from prune_tool.errors import RunError, UsageError
from prune_tool.pipeline import analyze as analysing
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.choosing import Choice, choose, open_pool
from prune_tool.pipeline.export import open_job, ship
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.job import Job, Terms, each_of
from prune_tool.pipeline.module import from_module
from prune_tool.pipeline.progress import Progress
from prune_tool.pipeline.runs import RunRecord
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Budget, Candidate, Cost, Form, Limit, Reading, Request
from prune_tool.store.atomic import replacing
from prune_tool.store.layout import RUNS_ROOT, RunFolder
from prune_tool.task.backbone import Backbone


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The network that a budget or a limit chooses, before any test image is read.

    Attributes:
        job: what ``export`` works on.
        run: where it writes.
        choice: the budget, and the candidates in the order of testing.
    """

    job: Job
    run: RunFolder
    choice: Choice

    @property
    def candidate(self) -> Candidate:
        """The network: its size, its costs, its accuracy on the validation images."""
        return self.choice.candidate

    @property
    def reading(self) -> Reading:
        """Where it is cut, and what it reads."""
        return self.job.analysis.measured[self.candidate.reading].reading

    def export(self, path: str | Path | None = None) -> Exported:
        """Cut it, prove the file, test it on the test images, and write it into the run, as ``prune_tool.export`` does.

        Args:
            path: where a copy of the file shall stand besides, ``somewhere/model.onnx``; its certificate comes beside,
                as ``somewhere/model.certificate.json``.

        Raises:
            UsageError: the path does not end in ``.onnx``.
            RunError: there is no such folder, or it cannot be written.
            PruneToolError: as for ``prune_tool.export``.
        """
        target = None if path is None else _checked(Path(path))
        exported = ship(self.job, self.run, self.choice)
        if target is not None:
            _copy(self.run.certificate, target.with_suffix(".certificate.json"))
            _copy(self.run.model, target)
        return exported


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A backbone, analysed for a task.

    Attributes:
        workspace: images and backbone, open.
        analyzed: what was found, and the run folder where it stands.
    """

    workspace: Workspace
    analyzed: Analyzed

    @property
    def run(self) -> RunFolder:
        """The run folder."""
        return self.analyzed.run

    @property
    def record(self) -> RunRecord:
        """What was asked, of what, with which versions."""
        return self.analyzed.record

    @property
    def analysis(self) -> Analysis:
        """Everything that was measured."""
        return self.analyzed.analysis

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that could ship, on the frontier or not."""
        return self.analyzed.candidates

    def reading(self, candidate: Candidate) -> Reading:
        """Where a candidate is cut, and what it reads."""
        return self.analysis.measured[candidate.reading].reading

    def frontier(self, cost: Cost | None = None) -> list[Candidate]:
        """Candidates that no other matches in accuracy at less cost, cheapest first.

        Args:
            cost: ``latency``, ``macs``, ``params``, ``size`` or ``neurons``; by default the request's.

        Raises:
            UsageError: it is ``latency``, and that was not measured.
        """
        return self.analyzed.frontier(cost)

    def choose(
        self,
        budget: Budget | float | str = 0.05,
        *,
        limits: Sequence[Limit] = (),
        taps: str | None = None,
        form: Form | Sequence[Form] = Form(),  # noqa: B008 - frozen
        confidence: float = defaults.CONFIDENCE,
    ) -> Chosen:
        """The cheapest network within a budget, on validation images alone.

        Args:
            budget: the loss allowed: 0.05 (of the full backbone's accuracy), ``"5pp"`` (points), or a ``Budget``.
            limits: as for ``prune_tool.export``.
            taps: as for ``prune_tool.export``.
            form: as for ``prune_tool.export``.
            confidence: as for ``prune_tool.export``.

        Raises:
            BudgetError: nothing meets the budget on the validation images.
            LimitError: nothing is within the limits.
            UsageError: the budget makes no sense.
        """
        allowed = budget if isinstance(budget, Budget) else Budget.parse(str(budget))
        terms = Terms(confidence=confidence, taps=taps, limits=tuple(limits), forms=each_of(form))
        job = open_job(self.workspace, self.run, terms)
        pool = open_pool(job, self.candidates)
        return Chosen(job=job, run=self.run, choice=choose(pool, allowed, limits))


def analyze(
    model: str | nn.Module | Backbone | Workspace | None = None,
    data: str | Path | None = None,
    *,
    runs: str | Path = RUNS_ROOT,
    name: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Study:
    """Measure how redundant a backbone is for a task, and where cutting it pays.

    Args:
        model: a timm name, ``hf-hub:...`` or ``local-dir:...``; a module, as for ``from_module``, or a backbone from
            there; or a workspace that is open already, which says everything but ``runs`` and ``name``. None: the
            embedded default.
        data: the labelled images: a path, or a scheme as in docs/data.md. None: the embedded default.
        runs: folder of run folders.
        name: of the new run; by default made of model and data.
        progress: who watches.
        options: fields of ``Request``, such as ``input_sizes``, ``cost`` or ``seed``.

    Raises:
        UsageError: an option is none, or makes no sense.
        PruneToolError: the model, the data, the cache or the name cannot be used; nothing has been written to ``runs``.
    """
    workspace = _open(model, data, progress, options)
    return Study(workspace=workspace, analyzed=analysing.analyze(workspace, runs=Path(runs), name=name))


def _open(
    model: str | nn.Module | Backbone | Workspace | None,
    data: str | Path | None,
    progress: Progress | None,
    options: dict[str, Any],
) -> Workspace:
    if isinstance(model, Workspace):
        if data is not None or progress is not None or options:
            raise UsageError(
                asked="analyze a workspace with data, progress or options beside it",
                found="its request says all that",
                remedy="Give the workspace alone, or model and data",
            )
        return model
    _require_known(options)
    images = None if data is None else str(data)
    if model is None or isinstance(model, str):
        return Workspace(Request(model=model, data=images, **options), progress)
    backbone = model if isinstance(model, Backbone) else from_module(model)
    return Workspace(Request(data=images, **options), progress, backbone=backbone)


def _require_known(options: dict[str, Any]) -> None:
    known = [field.name for field in fields(Request) if field.name not in {"model", "data"}]
    if unknown := [option for option in options if option not in known]:
        raise UsageError(
            asked=f"analyze with {', '.join(unknown)}",
            found="a request has no such field",
            remedy=f"It has {', '.join(known)}",
        )


def _checked(path: Path) -> Path:
    if path.suffix != ".onnx":
        raise UsageError(
            asked=f"export to {path}",
            found="the name does not end in .onnx",
            remedy=f"Name the file, such as {path.with_suffix('.onnx')}",
        )
    if not path.parent.is_dir():
        raise RunError(
            asked=f"export to {path}", found=f"there is no folder {path.parent}", remedy="Make it, or choose another"
        )
    return path


def _copy(source: Path, target: Path) -> None:
    try:
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        raise RunError(
            asked=f"write {target}",
            found=error.strerror or str(error),
            remedy=f"Choose a folder that can be written; the file stands in {source.parent}",
        ) from error

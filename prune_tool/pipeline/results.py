"""Everything that stands in a run folder, read back: what there is, and what is missing or speaks of another file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune_tool.deploy.bench import BenchResult
from prune_tool.frontier.screen import front
from prune_tool.pipeline.bench import KEPT
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.predictions import Predictions
from prune_tool.pipeline.runs import RunRecord, read_analysis, read_candidates, read_record, read_typed
from prune_tool.records import Analysis, Candidate
from prune_tool.store.layout import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A run, as far as it has come.

    Attributes:
        run: its folder.
        record, analysis: from ``analyze``; every run has them.
        candidates: the frontier at the request's cost, cheapest first.
        exported: from ``export``, if it has been run.
        predictions: of the file that ``exported`` speaks of, if they are there.
        bench: of that same file, if it has been timed.
    """

    run: RunFolder
    record: RunRecord
    analysis: Analysis
    candidates: tuple[Candidate, ...]
    exported: Exported | None
    predictions: Predictions | None
    bench: BenchResult | None


def read_results(run: RunFolder) -> Results:
    """Read a run folder.

    Predictions and timings of an earlier export are not results of this run's file: they are left out as if missing.

    Raises:
        RunError: a file is damaged or of another version.
    """
    record = read_record(run)
    exported: Exported | None = _if_there(Exported, run.certificate, "export")
    predictions: Predictions | None = _if_there(Predictions, run.predictions, "export")
    bench: BenchResult | None = _if_there(BenchResult, run.bench, "bench")
    if exported is None or (predictions is not None and predictions.model_sha256 != exported.model_sha256):
        predictions = None
    if exported is None or (bench is not None and _kept_bytes(bench) != exported.built.n_bytes):
        bench = None
    return Results(
        run=run,
        record=record,
        analysis=read_analysis(run),
        candidates=tuple(front(read_candidates(run), record.request.cost)),
        exported=exported,
        predictions=predictions,
        bench=bench,
    )


def _if_there(kind: type, path: Path, command: str) -> Any:
    return read_typed(kind, path, command=command) if path.exists() else None


def _kept_bytes(bench: BenchResult) -> int | None:
    return next((contender.file_bytes for contender in bench.contenders if contender.name == KEPT), None)

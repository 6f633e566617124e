"""Run folders: what was asked and found, written whole and read back checked."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prune_tool import defaults
from prune_tool.deploy.hardware import cpu_model
from prune_tool.errors import RunError
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Candidate, Request, Trunk
from prune_tool.store.atomic import read_json, write_json
from prune_tool.store.fingerprint import fingerprint
from prune_tool.store.layout import RunFolder
from prune_tool.task.preprocessing import Preprocessing

SCHEMA_VERSION = 6
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
"""Distributions that bring ONNX Runtime; a machine has one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """``run.json``: what was asked, of what, with which versions.

    Attributes:
        model: name of the backbone; ``model_fingerprint`` covers architecture and weights.
        preprocessing: of its own input size, with the changes that were asked for.
        data: name of the images; ``data_fingerprint`` covers classes, labels and contents.
        splits: how they came about; ``splits_fingerprint`` covers the indices.
        trunks: every one that was tried, the backbone as it came first.
        n_bad_images: images left out because they cannot be decoded.
    """

    schema_version: int
    created: str
    request: Request
    model: str
    model_fingerprint: str
    preprocessing: Preprocessing
    data: str
    data_fingerprint: str
    classes: tuple[str, ...]
    splits: str
    splits_fingerprint: str
    n_train: int
    n_val: int
    n_test: int
    n_duplicates_dropped: int
    n_bad_images: int
    trunks: tuple[Trunk, ...]
    versions: dict[str, str]

    @property
    def default_name(self) -> str:
        """A run's name where the user gives none."""
        return f"{_plain(self.model)}-{_plain(self.data)}"


def _plain(name: str) -> str:
    stem = name.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return "".join(c if c.isalnum() or c in "_." else "-" for c in stem).strip(".-") or "run"


def describe_run(workspace: Workspace) -> RunRecord:
    """The record of a workspace's request."""
    splits = workspace.splits
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        request=workspace.request,
        model=workspace.native.backbone.name,
        model_fingerprint=workspace.native.backbone.fingerprint,
        preprocessing=workspace.native.backbone.preprocessing,
        data=workspace.source.name,
        data_fingerprint=workspace.source.fingerprint(),
        classes=workspace.source.classes,
        splits=splits.origin,
        splits_fingerprint=_splits_fingerprint(workspace),
        n_train=len(splits.train),
        n_val=len(splits.val),
        n_test=len(splits.test),
        n_duplicates_dropped=splits.n_duplicates_dropped,
        n_bad_images=len(workspace.bad_images),
        trunks=tuple(subject.trunk for subject in workspace.subjects),
        versions=versions(),
    )


def _splits_fingerprint(workspace: Workspace) -> str:
    splits = workspace.splits
    return fingerprint(splits.train, splits.val, splits.test, *splits.folds)


def versions() -> dict[str, str]:
    """Of everything whose rounding or defaults could change a number."""
    packages = ("prune-tool", "torch", "timm", "onnx", "onnxscript", *ONNX_RUNTIMES, "numpy", "scipy", "pillow")
    found = {package: _version(package) for package in packages}
    return {"python": platform.python_version(), **{package: v for package, v in found.items() if v is not None}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What ``analyze`` measures, apart from whom it was measured for."""

    analysis: Analysis
    candidates: tuple[Candidate, ...]


def findings_key(workspace: Workspace, record: RunRecord) -> str:
    """Changes when findings could: features, splits, how subsets are drawn, constants, versions."""
    request = record.request
    constants = {name: value for name, value in vars(defaults).items() if name.isupper()}
    return fingerprint(
        f"findings-{SCHEMA_VERSION}",
        *(subject.fingerprint for subject in workspace.subjects),
        record.data_fingerprint,
        record.splits_fingerprint,
        cpu_model() if request.cost == "latency" else "",
        repr((request.cost, request.target, request.amp)),
        repr(
            (
                request.seed,
                request.n_draws,
                request.strategy,
                request.metric,
                request.compare,
                request.device,
                request.round_to,
            )
        ),
        repr(sorted(constants.items())),
        repr(sorted(record.versions.items())),
    )


def write_run(run: RunFolder, record: RunRecord, findings: Findings) -> None:
    """Write what ``analyze`` found; ``run.json`` comes last and makes the folder a run."""
    write_json(run.analysis, findings.analysis)
    write_json(run.frontier, findings.candidates)
    write_json(run.run, record)


def read_findings(path: Path) -> Findings:
    """Findings from the cache. Raises ``RunError`` where they are damaged."""
    findings: Findings = read_typed(Findings, path)
    return findings


def read_record(run: RunFolder) -> RunRecord:
    """``run.json``. Raises ``RunError`` where it is damaged or of another version."""
    record: RunRecord = read_typed(RunRecord, run.run)
    return record


def read_analysis(run: RunFolder) -> Analysis:
    """``analysis.json``, checked."""
    analysis: Analysis = read_typed(Analysis, run.analysis)
    return analysis


def read_candidates(run: RunFolder) -> tuple[Candidate, ...]:
    """``frontier.json``, checked."""
    candidates: tuple[Candidate, ...] = read_typed(tuple[Candidate, ...], run.frontier)
    return candidates


def read_typed(kind: Any, path: Path, *, command: str = "analyze") -> Any:
    """Read back a record that ``command`` wrote.

    Raises:
        RunError: there is no such file, or it does not hold what this version writes there.
    """
    value = read_json(path)
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(
            asked=f"read {path}",
            found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            remedy=f"Run `prune-tool {command}` again with this version",
        ) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def require_same(workspace: Workspace, record: RunRecord, run: RunFolder) -> None:
    """Refuse to go on with a run whose model, images or splits have changed since it was analysed."""
    backbone = workspace.native.backbone
    found = {
        "the weights": (backbone.fingerprint, record.model_fingerprint),
        "mean, std, interpolation or crop": (repr(backbone.preprocessing), repr(record.preprocessing)),
        "the images": (workspace.source.fingerprint(), record.data_fingerprint),
        "the splits": (_splits_fingerprint(workspace), record.splits_fingerprint),
    }
    for what, (now, then) in found.items():
        if now != then:
            short = f" ({then[:12]} then, {now[:12]} now)" if len(now) == len(then) == 64 else ""
            raise RunError(
                asked=f"go on with the run {run.path}",
                found=f"{what} have changed since it was analysed{short}",
                remedy="Run `prune-tool analyze` again",
            )

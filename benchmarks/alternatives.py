"""prune-tool beside what a user would otherwise take: the same images, budget, splits, certificate and machine.

    python benchmarks/alternatives.py [--only MODEL/DATA ...] [--budget 0.05] [--epochs 5] [--out F] [--render|--quick]

Contenders: the full backbone; ONNX Runtime's static int8 of it; a lower resolution alone; a smaller stock backbone;
Torch-Pruning in one shot (magnitude, Taylor, random; of each layer, or of all together) with a refitted probe, and with
training; prune-tool at the last layer, on depth, subset and resolution, narrowed too, and each of those two with the
precision to choose as well. What has a strength is pruned as far as the validation images allow. Each file is certified
on the test images, and all are timed together.
Needs ``benchmarks/requirements.txt``. Pairs go into F's ``alternatives.json`` beside those there; ``--quick`` tries the
script on few images, and claims nothing of them.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import copyfile
from typing import Any

import _record
from _alternatives_report import draw, report
from _assets import ASSETS
from _pair_runs import measure_pairs, speed
from _pairs import PAIRS, Pair, open_workspace, task
from _peers import IMPORTANCES, fine_tuned, pruned, static_int8

from prune_tool import Budget, Form, Request, Workspace, defaults, export, from_module
from prune_tool.deploy.bench import Conditions, bench
from prune_tool.errors import BudgetError
from prune_tool.frontier.certificate import certify
from prune_tool.pipeline.analyze import Analyzed, analyze, measure_full
from prune_tool.pipeline.build import build_full
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.feeding import logits_of
from prune_tool.pipeline.progress import Progress
from prune_tool.pipeline.trial import Trial, open_trial
from prune_tool.records import Full, Score
from prune_tool.redundancy.held_out import score_of
from prune_tool.store.layout import RunFolder
from prune_tool.surgery.taps import HEAD
from prune_tool.task.backbone import Backbone, load_backbone

NAME = "alternatives"
BATCH_SIZES = (1, 16)
SECONDS = 20.0
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5)
TRAINED_RATIOS = (0.1, 0.3, 0.5)
"""Of channels; tried from small to large until one is too much."""

QUICK = Pair(model="tf_efficientnet_lite0", data="cifar10", n_images=(300, 150))
SMALLER = {"resnet50_v1": "tf_efficientnet_lite0", "vit_small_patch14_dinov2": "tf_efficientnet_lite0"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What every contender is given, and what judges it."""

    pair: Pair
    data: str | None
    workspace: Workspace
    found: Analyzed
    analyze_s: float
    trial: Trial
    budget: Budget
    folder: Path
    progress: Progress

    def analysed_anew(self, name: str, **searched: Any) -> "Task":
        """The same task with another search, whose features of whole trunks are in the cache by now."""
        started = time.perf_counter()
        workspace = open_workspace(self.pair, self.data, self.progress, **searched)
        found = analyze(workspace, runs=self.folder / name)
        seconds = self.analyze_s + time.perf_counter() - started
        return replace(self, workspace=workspace, found=found, analyze_s=seconds)

    @cached_property
    def narrowed(self) -> "Task":
        """With narrowed trunks to choose from."""
        return self.analysed_anew("narrowed", narrow=defaults.NARROW_SHARES)

    def certified(self, path: Path, workspace: Workspace) -> dict[str, Any]:
        """Accuracy of a file on the test images, and whether that proves the budget kept."""
        rows, preprocessing = self.workspace.splits.test, workspace.native.backbone.preprocessing
        kept = logits_of(workspace, rows, path, preprocessing, title="testing the file").argmax(axis=1)
        certificate = certify(self.trial.drop(self.budget, kept))
        return {"accuracy": certificate.test.kept.accuracy, "state": certificate.state}

    def is_met(self, val: Score) -> bool:
        """Whether a validation score is within the budget."""
        return self.budget.is_met(val, self.found.analysis.full.val)


def probed(asked: Task, backbone: Backbone, folder: Path) -> tuple[Workspace, Full, Path]:
    """Another backbone with a probe of its own, fitted as every probe here is, as a file."""
    folder.mkdir()
    workspace = Workspace(Request(data=asked.data, input_sizes=(), taps=(HEAD,)), asked.progress, backbone=backbone)
    full, probe = measure_full(workspace, fit_data(workspace))
    build_full(workspace, RunFolder(folder), probe)
    return workspace, full, RunFolder(folder).full


def written(asked: Task, workspace: Workspace, full: Full, path: Path) -> dict[str, Any]:
    """What is recorded of another backbone's file."""
    said = {"val": full.val.accuracy, "macs": full.macs, "n_params": full.n_params, "path": path}
    return {**said, **asked.certified(path, workspace)}


def torch_pruning(asked: Task, importance: str, *, is_global: bool, n_epochs: int = 0) -> dict[str, Any]:
    """The largest share of channels that the validation images allow, and what it took to find it."""
    workspace = asked.workspace
    probe = measure_full(workspace, fit_data(workspace))[1]
    best: dict[str, Any] = {"state": "nothing within the budget on validation images"}
    for ratio in TRAINED_RATIOS if n_epochs else RATIOS:
        model = pruned(workspace, probe, ratio, importance, is_global=is_global)
        if n_epochs:
            model = fine_tuned(workspace, model, n_epochs)
        backbone = from_module(model.backbone, name="pruned", preprocessing=workspace.native.backbone.preprocessing)
        name = f"{importance}-{is_global}-{n_epochs}-{ratio}"
        found, full, path = probed(asked, backbone, asked.folder / name)
        if not asked.is_met(full.val):
            best["failed_at"] = {"ratio": ratio, "val": full.val.accuracy}
            break
        best = {"recipe": f"{ratio:.0%} of channels", **written(asked, found, full, path)}
    return best


def quantised(asked: Task) -> dict[str, Any]:
    """ONNX Runtime's static int8 of the full backbone."""
    workspace, path = asked.workspace, asked.folder / "static-int8.onnx"
    static_int8(workspace, asked.found.run.full, path, defaults.N_CALIBRATION)
    rows = workspace.splits.val
    logits = logits_of(workspace, rows, path, workspace.native.backbone.preprocessing, title="validating the file")
    val = score_of(workspace.source.labels[rows], logits.argmax(axis=1), "accuracy")
    full = asked.found.analysis.full
    return {
        "val": val.accuracy,
        "macs": full.macs,
        "n_params": full.n_params,
        "path": path,
        **asked.certified(path, workspace),
    }


def smaller(asked: Task) -> dict[str, Any]:
    """A smaller stock backbone with all its neurons."""
    backbone = load_backbone(f"local-dir:{ASSETS / 'backbones' / SMALLER[asked.pair.model]}")
    given = from_module(backbone.module, preprocessing=backbone.preprocessing, name=backbone.name)
    return {"recipe": backbone.name, **written(asked, *probed(asked, given, asked.folder / "smaller"))}


def prune_tool(asked: Task, name: str, taps: str | None, precision: str = "fp32") -> dict[str, Any]:
    """What ``export`` ships, and the seconds of its analysis too."""
    form = Form.parse_each("normalize", precision)
    started = time.perf_counter()
    try:
        exported = export(asked.workspace, asked.found.run, budget=asked.budget, taps=taps, form=form)
    except BudgetError as error:
        shipped: dict[str, Any] = {"state": "nothing within the budget on validation images", "found": error.found}
    else:
        shipped = shipping(exported, Path(copyfile(asked.found.run.model, asked.folder / f"{name}.onnx")))
    return {"seconds": asked.analyze_s + time.perf_counter() - started, **shipped}


def shipping(exported: Exported, path: Path) -> dict[str, Any]:
    """What is recorded of a file of prune-tool."""
    built = exported.built
    return {
        "recipe": f"{built.reading}, {built.candidate.n_neurons} neurons, {built.form.precision}",
        "val": built.val.accuracy,
        "macs": built.candidate.macs,
        "n_params": built.candidate.n_params,
        "path": path,
        "accuracy": exported.certificate.test.kept.accuracy,
        "state": exported.certificate.state,
    }


def last_layer(asked: Task) -> dict[str, Any]:
    """Random neurons of the penultimate layer, at the backbone's own input size."""
    return prune_tool(asked.analysed_anew("last", input_sizes=()), "last", "last")


Contender = Callable[[Task], dict[str, Any]]


def contenders(pair: Pair, n_epochs: int) -> dict[str, tuple[int, Contender]]:
    """By name: lines that the user types, and what gets the file."""
    found: dict[str, tuple[int, Contender]] = {
        "ONNX Runtime static int8": (25, quantised),
        "lower resolution": (1, lambda asked: prune_tool(asked, "resolution", "last")),
    }
    if pair.model in SMALLER:
        found["smaller stock backbone"] = (30, smaller)
    if "vit" not in pair.model:  # Torch-Pruning needs attention rewritten by hand for every timm model
        for importance in IMPORTANCES:
            for scope in ("local", "global"):
                name = f"Torch-Pruning {importance}, {scope}"
                found[name] = (40, _one_shot(importance, is_global=scope == "global"))
        if n_epochs:
            name = f"Torch-Pruning magnitude, global, {n_epochs} epochs"
            found[name] = (70, _one_shot("magnitude", is_global=True, n_epochs=n_epochs))
    found["prune-tool, last layer"] = (1, last_layer)
    found["prune-tool, all axes"] = (1, lambda asked: prune_tool(asked, "all", None))
    found["prune-tool, all axes and precision"] = (1, lambda asked: prune_tool(asked, "auto", None, "auto"))
    found["prune-tool, narrowed too"] = (1, lambda asked: prune_tool(asked.narrowed, "narrow", None))
    found["prune-tool, narrowed too, and precision"] = (
        1,
        lambda asked: prune_tool(asked.narrowed, "narrow-auto", None, "auto"),
    )
    return found


def _one_shot(importance: str, **how: Any) -> Contender:
    return lambda asked: torch_pruning(asked, importance, **how)


@contextmanager
def opened(pair: Pair, budget: Budget, progress: Progress) -> Iterator[Task]:
    """The task, analysed with an empty cache."""
    with task(pair) as data, tempfile.TemporaryDirectory() as folder:
        os.environ["PRUNE_TOOL_CACHE"] = str(Path(folder) / "cache")
        started = time.perf_counter()
        workspace = open_workspace(pair, data, progress)
        found = analyze(workspace, runs=Path(folder) / "runs")
        seconds = time.perf_counter() - started
        full = RunFolder(Path(folder) / "full")
        full.path.mkdir()
        build_full(workspace, full, measure_full(workspace, fit_data(workspace))[1])
        copyfile(full.full, found.run.full)
        trial = open_trial(workspace, full.full, defaults.CONFIDENCE)
        yield Task(
            pair=pair,
            data=data,
            workspace=workspace,
            found=found,
            analyze_s=seconds,
            trial=trial,
            budget=budget,
            folder=Path(folder),
            progress=progress,
        )


def measure(pair: Pair, budget: Budget, n_epochs: int, progress: Progress) -> dict[str, Any]:
    """All contenders of one pair, timed together."""
    with opened(pair, budget, progress) as asked:
        full = asked.found.analysis.full
        found: dict[str, dict[str, Any]] = {
            "full": {"val": full.val.accuracy, "macs": full.macs, "n_params": full.n_params, "n_lines": 0},
        }
        found["full"] |= asked.certified(asked.found.run.full, asked.workspace)
        files = {"full": Path(copyfile(asked.found.run.full, asked.folder / "full.onnx"))}
        for name, (n_lines, get) in contenders(pair, n_epochs).items():
            started = time.perf_counter()
            try:
                found[name] = get(asked)
            except Exception as error:  # noqa: BLE001 - a peer that cannot do it is a finding, and loses nobody else's
                found[name] = {"state": f"failed: {type(error).__name__}"}
                progress.note(f"{name}: {error}")
            found[name] = {"seconds": time.perf_counter() - started, **found[name], "n_lines": n_lines}
            if "path" in found[name]:
                files[name] = found[name].pop("path")
        for timing in bench(files, Conditions(batch_sizes=BATCH_SIZES, threads=(1,), seconds=SECONDS)).timings:
            found[timing.contender][f"batch {timing.batch_size}"] = speed(timing)
        for name, path in files.items():
            found[name]["n_bytes"] = path.stat().st_size
        n_test = len(asked.workspace.splits.test)
        return {"budget": budget.spelled, "n_test": n_test, "analyze_s": asked.analyze_s, "contenders": found}


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--budget", default="0.05")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    known = (QUICK,) if asked.quick else PAIRS
    budget = Budget.parse(asked.budget)
    packages = ("torch", "timm", "onnxruntime", "onnx", "numpy", "torch-pruning")
    pairs = measure_pairs(
        NAME, asked, lambda pair, progress: measure(pair, budget, asked.epochs, progress), packages, known
    )
    draw(pairs, asked.out / NAME)
    print(report(pairs))


if __name__ == "__main__":
    main()

"""What a file of eight bits is worth beside a cut one, and beside one that is both: size, latency, certified accuracy.

    python benchmarks/precision.py [--only MODEL/DATA ...] [--budget 0.05] [--out FOLDER] [--render] [--quick]

For each pair: the full backbone and the cheapest certified network within the budget, each as float32 and as int8 (the
full one quantised whatever its accuracy). All four are timed together, interleaved, on one thread. Pairs go into
FOLDER's ``precision.json`` beside those already there. ``--render`` only prints the table; ``--quick`` is for
``check.py``: few images, and no claim about them.
"""

import argparse
import tempfile
from pathlib import Path
from shutil import copyfile
from typing import Any

import _record
from _frontier_report import title
from _pair_runs import measure_pairs, speed
from _pairs import PAIRS, Pair, open_workspace, task

from prune_tool import Budget, export
from prune_tool.deploy.bench import Conditions, bench
from prune_tool.errors import BudgetError
from prune_tool.pipeline.analyze import analyze
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.progress import Progress
from prune_tool.records import Form, Score

NAME = "precision"
BATCH_SIZES = (1, 16)
SECONDS = 15.0
QUICK = Pair(model="tf_efficientnet_lite0", data="cifar10", n_images=(400, 200))
FILES = ("full fp32", "full int8", "kept fp32", "kept int8")


def said(score: Score, n_bytes: int, state: str) -> dict[str, Any]:
    """What is recorded of a file beside its latency."""
    return {"accuracy": score.accuracy, "n_test": score.n_images, "n_bytes": n_bytes, "state": state}


def kept(exported: Exported) -> dict[str, Any]:
    """Of the file that shipped."""
    built, certificate = exported.built, exported.certificate
    recipe = f"{built.reading}, {built.candidate.n_neurons} neurons"
    found = said(certificate.test.kept, built.n_bytes, certificate.state)
    return {**found, "recipe": recipe, "n_in_float": len(built.in_float)}


def measure(pair: Pair, budget: Budget, progress: Progress) -> dict[str, Any]:
    """The four files of one pair."""
    with task(pair) as data, tempfile.TemporaryDirectory() as folder:
        workspace = open_workspace(pair, data, progress)
        run = analyze(workspace, runs=Path(folder)).run
        paths = {name: Path(folder) / f"{name}.onnx" for name in FILES}
        files: dict[str, Any] = {}
        exported = export(workspace, run, budget=budget)
        files["kept fp32"] = kept(exported)
        copyfile(run.model, paths["kept fp32"])
        copyfile(run.full, paths["full fp32"])
        full = exported.certificate.test.full
        files["full fp32"] = said(full, run.full.stat().st_size, "the yardstick")
        try:
            exported = export(workspace, run, budget=budget, form=Form(precision="int8"))
        except BudgetError as error:
            files["kept int8"] = {"state": "nothing within the budget", "found": error.found}
        else:
            files["kept int8"] = kept(exported)
            copyfile(run.model, paths["kept int8"])
            assert exported.full_int8 is not None, "it is written beside every int8 file"
            files["full int8"] = said(exported.full_int8.test, run.full_int8.stat().st_size, "reported")
            copyfile(run.full_int8, paths["full int8"])
        there = {name: path for name, path in paths.items() if path.exists()}
        for timing in bench(there, Conditions(batch_sizes=BATCH_SIZES, threads=(1,), seconds=SECONDS)).timings:
            files[timing.contender][f"batch {timing.batch_size}"] = speed(timing)
        return {"budget": budget.spelled, "files": {name: files[name] for name in FILES if name in files}}


def report(pairs: dict[str, Any]) -> str:
    """Markdown: a row for each file of each pair."""
    rows = [
        "| backbone, images | file | test acc. % | state | MB | p50 ms, batch 1 | batch 16 | faster, batch 1 |",
        "|---|---|--:|---|--:|--:|--:|--:|",
    ]
    for name, pair in pairs.items():
        for file, found in pair["files"].items():
            if "batch 1" not in found:
                rows.append(f"| {title(name)} | {file} | | {found['state']} | | | | |")
                continue
            one, sixteen = found["batch 1"], found["batch 16"]
            rows.append(
                f"| {title(name)} | {file} | {100 * found['accuracy']:.1f} | {found['state']} "
                f"| {found['n_bytes'] / 1e6:.1f} | {one['p50_ms']:.2f} | {sixteen['p50_ms']:.1f} "
                f"| {one['speedup'][1]:.2f}x |"
            )
    return "\n".join(rows)


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--budget", default="0.05")
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    known = (QUICK,) if asked.quick else PAIRS
    budget = Budget.parse("0.5" if asked.quick else asked.budget)
    packages = ("torch", "timm", "onnxruntime", "onnx", "numpy")
    pairs = measure_pairs(NAME, asked, lambda pair, progress: measure(pair, budget, progress), packages, known)
    print(report(pairs))


if __name__ == "__main__":
    main()

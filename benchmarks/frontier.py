"""How much faster a certified file is, and what each axis brings: all of them, and each of them alone.

    python benchmarks/frontier.py [--only MODEL/DATA ...] [--budget 0.05,0.01] [--out FOLDER] [--render]

For each backbone and task, and for each restriction of the search: the cheapest file that loses no more than the budget
(certified at 95 % on the test images), and its latency in ONNX Runtime on one thread at batch 1 and 16, interleaved
with the full backbone and with the files of the other restrictions. Pairs go into FOLDER's ``frontier.json`` beside
those already there; ``frontier.png`` and ``frontier.svg`` are drawn of all. ``--render`` only draws and prints.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import _record
from _frontier_report import draw, report
from _pair_runs import measure_pairs, speed
from _pairs import Pair, open_workspace, task

from prune_tool import Budget, Workspace, defaults, export_each
from prune_tool.deploy.bench import Conditions, bench
from prune_tool.frontier.screen import front
from prune_tool.pipeline.analyze import Analyzed, analyze, probe_near
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.progress import Progress
from prune_tool.store.layout import RunFolder

NAME = "frontier"
BATCH_SIZES = (1, 16)
SECONDS = 20.0

Row = dict[str, Any]
Shipped = dict[str, tuple[RunFolder, Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What the search may try: input sizes (``None``: the usual ones), taps, and shares of the MACs to narrow to."""

    input_sizes: tuple[int, ...] | None
    taps: str | None
    narrow: tuple[float, ...] = ()


SEARCHES = {
    "all axes": Axes(input_sizes=None, taps=None),
    "resolution alone": Axes(input_sizes=None, taps="last"),
    "depth alone": Axes(input_sizes=(), taps=None),
    "last layer alone": Axes(input_sizes=(), taps="last"),
    "all axes, narrowed too": Axes(input_sizes=None, taps=None, narrow=defaults.NARROW_SHARES),
}


def points(workspace: Workspace, found: Analyzed, axes: Axes) -> list[dict[str, Any]]:
    """The frontier on validation images: predicted milliseconds and accuracy."""
    measured = found.analysis.measured
    candidates = found.candidates
    if axes.taps == "last":
        last = frozenset({workspace.native.taps[-1].name})
        candidates, _ = probe_near(workspace, fit_data(workspace), measured, last)
    return [
        {"recipe": f"{measured[c.reading].reading}, {c.n_neurons} neurons", "ms": c.latency_ms, "val": c.val.accuracy}
        for c in front(candidates, "latency")
    ]


def ship(workspace: Workspace, found: Analyzed, axes: Axes, budgets: Sequence[Budget]) -> Shipped:
    """By budget: where the file within it is, what it is and how it was certified."""
    started = time.perf_counter()
    places = export_each(workspace, found.run, budgets=budgets, taps=axes.taps)
    seconds = time.perf_counter() - started
    return {
        exported.certificate.test.budget.spelled: (run, _row(found, exported) | {"export_s": seconds})
        for run, exported in places.items()
    }


def _row(found: Analyzed, exported: Exported) -> Row:
    certificate, built = exported.certificate, exported.built
    return {
        "state": certificate.state,
        "recipe": f"{built.reading}, {built.candidate.n_neurons} neurons",
        "full": certificate.test.full.accuracy,
        "kept": certificate.test.kept.accuracy,
        "n_test": certificate.test.full.n_images,
        "macs_ratio": found.analysis.full.macs / built.candidate.macs,
        "predicted_ms": built.candidate.latency_ms,
        "n_bytes": built.n_bytes,
    }


def measure(pair: Pair, budgets: list[Budget], progress: Progress) -> dict[str, Any]:
    """All restrictions and budgets of one pair, their files timed together."""
    with task(pair) as data, tempfile.TemporaryDirectory() as folder:
        work, files = Path(folder), {"full": Path(folder) / "full.onnx"}
        searches: dict[str, Any] = {}
        full: dict[str, Any] = {}
        shared: dict[Any, tuple[Workspace, Analyzed, float]] = {}
        for name, axes in SEARCHES.items():
            opened = axes.input_sizes, axes.narrow
            if opened not in shared:
                started = time.perf_counter()
                workspace = open_workspace(pair, data, progress, input_sizes=axes.input_sizes, narrow=axes.narrow)
                found = analyze(workspace, runs=work / "runs")
                shared[opened] = (workspace, found, time.perf_counter() - started)
            workspace, found, seconds = shared[opened]
            searches[name] = {"analyze_s": seconds, "points": points(workspace, found, axes), "shipped": {}}
            for budget, (run, row) in ship(workspace, found, axes, budgets).items():
                searches[name]["shipped"][budget] = row
                files[f"{name} {budget}"] = Path(copyfile(run.model, work / f"{len(files)}.onnx"))
                copyfile(run.full, files["full"])
        timed = bench(files, Conditions(batch_sizes=BATCH_SIZES, threads=(1,), seconds=SECONDS))
        for timing in timed.timings:
            name, _, budget = timing.contender.rpartition(" ")
            place = searches[name]["shipped"][budget] if name else full
            place[f"batch {timing.batch_size}"] = speed(timing)
        analysis = shared[None, ()][1].analysis
        assert analysis.timed is not None, "latency is the request's cost"
        return {
            "full_ms_predicted": analysis.timed.full_ms,
            "full_val": analysis.full.val.accuracy,
            "full": full,
            "searches": searches,
        }


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--budget", default="0.05,0.01")
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    parser.add_argument("--render", action="store_true")
    asked = parser.parse_args()
    budgets = [Budget.parse(each) for each in asked.budget.split(",")]
    packages = ("torch", "timm", "onnxruntime", "numpy")
    pairs = measure_pairs(NAME, asked, lambda pair, progress: measure(pair, budgets, progress), packages)
    draw(pairs, asked.out / NAME)
    print(report(pairs))


if __name__ == "__main__":
    main()

"""The benchmark's own noise: does the interval of a file's speed-up over itself contain 1?

    python benchmarks/bench_noise.py [--runs N] [--seconds N] [--out FOLDER]

A 95 % interval should in 19 runs of 20. EfficientNet-Lite0 with random weights, batch 1, one thread, in one process
and in one process each. Writes ``benchmarks/results/bench_noise.json`` and prints a line a run.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import _record

from prune_tool.deploy.bench import Conditions, bench
from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.pipeline.subject import open_subject
from prune_tool.surgery.capture import export_program
from prune_tool.surgery.slicing import slice_graph
from prune_tool.task.backbone import load_structure

MODEL = "tf_efficientnet_lite0"


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    asked = parser.parse_args()
    found: dict[str, Any] = {"model": MODEL, "batch_size": 1, "n_threads": 1, "seconds": asked.seconds}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        subject = open_subject(load_structure(MODEL))
        head = slice_graph(subject.captured, {len(subject.taps) - 1: None}).eval()
        write_onnx(export_program(head, subject.example), path, metadata={}, output_names=("features",))
        for how, isolated in (("one process", False), ("one process each", True)):
            found[how] = [measure(path, seed, asked.seconds, isolated=isolated) for seed in range(asked.runs)]
            contained = sum(run["contains_1"] for run in found[how])
            print(f"{how}: the interval contains 1 in {contained} of {asked.runs} runs", flush=True)
    _record.save("bench_noise", found, ("torch", "timm", "onnx", "onnxruntime"), asked.out)


def measure(path: Path, seed: int, seconds: float, *, isolated: bool) -> dict[str, Any]:
    """One benchmark of the file against itself."""
    conditions = Conditions(threads=(1,), seconds=seconds, seed=seed, isolated=isolated)
    timing = bench({"one": path, "same": path}, conditions).timings[1]
    speedup = timing.speedup
    print(f"  {speedup.median:.4f} ({speedup.low:.4f} to {speedup.high:.4f}), {timing.n_calls} calls", flush=True)
    return {
        "median": speedup.median,
        "low": speedup.low,
        "high": speedup.high,
        "contains_1": speedup.low <= 1 <= speedup.high,
        "p50_ms": timing.p50_ms,
        "n_calls": timing.n_calls,
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()

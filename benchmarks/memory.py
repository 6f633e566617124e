"""Peak resident memory of analysing many images: does it stay within its bound?

    python benchmarks/memory.py [--images N ...] [--out FOLDER]

Synthetic 32 x 32 images of four classes, in one ``.npz`` that the reader holds in memory (3 KiB an image), and timm's
``test_resnet`` with random weights. Every number of images is a process of its own, and so is one that only imports;
peaks are what ``getrusage`` says of them. Writes ``benchmarks/results/memory.json`` and prints its table; fails where a
peak, without the images themselves, is above ``BOUND_MIB``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _record
import numpy as np
import timm
import torch
from safetensors.torch import save_file

from prune_tool import defaults
from prune_tool.pipeline.analyze import analyze
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Request

BOUND_MIB = 2048
"""Imports take about 800 MiB, features that are kept at most 512; the rest is one reading's columns and one fit."""

MODEL, INPUT_SIZE, N_CLASSES = "test_resnet", 32, 4
N_IMAGES = (10_000, 30_000, 100_000)


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=N_IMAGES)
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(int(arguments.one[0]), Path(arguments.one[1]))))
        return
    imports, *rows = [in_a_process_of_its_own(n_images) for n_images in (0, *arguments.images)]
    result = {
        "model": MODEL,
        "input_size": INPUT_SIZE,
        "bound_mib": BOUND_MIB,
        "feature_bytes_kept": defaults.FEATURE_BYTES,
        "imports_mib": imports["peak_mib"],
        "runs": rows,
    }
    _record.save("memory", result, ("torch", "timm", "onnxruntime", "safetensors"), arguments.out)
    print("| images | features, MiB | peak, MiB | of it images, MiB | seconds |\n|--:|--:|--:|--:|--:|")
    for row in rows:
        cells = (row[name] for name in ("n_images", "features_mib", "peak_mib", "pixels_mib", "seconds"))
        print("| " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")
    print(f"imports alone: {imports['peak_mib']:,.0f} MiB")
    if any(row["peak_mib"] - row["pixels_mib"] > BOUND_MIB for row in rows):
        sys.exit(f"above the bound of {BOUND_MIB:,} MiB")


def in_a_process_of_its_own(n_images: int) -> dict[str, Any]:
    """Peak memory is a property of a process, so each size gets one, in an empty cache."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "PRUNE_TOOL_CACHE": str(Path(scratch) / "cache")}
        if n_images:
            write_task(Path(scratch), n_images)
        command = [sys.executable, __file__, "--one", str(n_images), scratch]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def write_task(folder: Path, n_images: int) -> None:
    """A backbone of random weights, and images whose classes differ in brightness and by a gradient."""
    torch.manual_seed(0)
    net = folder / "net"
    net.mkdir()
    save_file(timm.create_model(MODEL, num_classes=N_CLASSES).state_dict(), net / "model.safetensors")
    transform = {"input_size": [3, INPUT_SIZE, INPUT_SIZE], "interpolation": "bilinear", "crop_pct": 1.0}
    normalisation = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": N_CLASSES}
    config = {"architecture": MODEL, "num_classes": N_CLASSES, "pretrained_cfg": {**transform, **normalisation}}
    (net / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    labels = np.arange(n_images) % N_CLASSES
    x = rng.integers(0, 100, (n_images, INPUT_SIZE, INPUT_SIZE, 3), dtype=np.uint8)
    stripes = np.where(np.arange(INPUT_SIZE) % 4 < 2, 0, 100).astype(np.uint8)
    x[labels % 2 == 1] += stripes[:, None, None]
    x[labels >= 2] += stripes[:, None] // 2
    np.savez(folder / "images.npz", x=x, y=labels)


def measure(n_images: int, scratch: Path) -> dict[str, Any]:
    """Analyse the task of ``write_task`` in this process (none, where there are no images) and say what it took."""
    start = time.perf_counter()
    if not n_images:
        return {"peak_mib": peak_mib()}
    data = scratch / "images.npz"
    workspace = Workspace(Request(model=f"local-dir:{scratch / 'net'}", data=str(data), input_sizes=(), n_draws=3))
    analyzed = analyze(workspace, runs=scratch / "runs")
    widths = sum(tap.width for tap in workspace.native.taps)
    record = analyzed.record
    return {
        "n_images": n_images,
        "n_features": widths,
        "features_mib": 4 * widths * (record.n_train + record.n_val) / 2**20,
        "pixels_mib": data.stat().st_size / 2**20,
        "peak_mib": peak_mib(),
        "seconds": time.perf_counter() - start,
        "accuracy": analyzed.analysis.full.val.accuracy,
    }


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib


if __name__ == "__main__":
    main()

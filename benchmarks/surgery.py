"""How long surgery takes and how much memory it needs: capture, one cut, ONNX export, family by family.

    python benchmarks/surgery.py [MODEL ...]

Every model runs in a process of its own, with random weights and two threads. The cut keeps a random fifth of the
neurons two thirds of the way. Writes ``benchmarks/results/surgery.json``, prints a markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript  # noqa: F401 - so that its loading is not taken for exporting
import timm
import torch

from prune_tool.surgery.capture import capture, export_program
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.slicing import slice_graph
from prune_tool.surgery.taps import TappedBackbone, find_taps

MODELS = ("resnet50", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")
RESULTS = Path(__file__).parent / "results" / "surgery.json"
N_THREADS = 2


def main() -> None:
    """Measure every model and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    rows = [in_a_process_of_its_own(model) for model in arguments.models]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "models": rows}, indent=2) + "\n", encoding="utf-8")
    print(table(rows))


def in_a_process_of_its_own(model: str) -> dict[str, Any]:
    """Peak memory is a property of a process, so each model gets one."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(N_THREADS)}
    command = [sys.executable, __file__, "--one", model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(name: str) -> dict[str, Any]:
    """Seconds of every step and peak resident memory, for one model, in this process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(N_THREADS)
    imported_mib = peak_mib()
    backbone = timm.create_model(name, pretrained=False, num_classes=0).eval()
    size = backbone.default_cfg["input_size"][1]
    space = (1, 2) if str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC") else (2, 3)

    def pool(x: torch.Tensor) -> torch.Tensor:
        return x.mean(space) if x.ndim == 4 else x[:, 0]

    example = torch.rand(2, 3, size, size)
    seconds, clock = {}, Clock()
    taps = find_taps(backbone, pool, example)
    seconds["taps"] = clock.lap()
    tapped = TappedBackbone(backbone, [tap.name for tap in taps[:-1]], pool, (0.5,) * 3, (0.5,) * 3).eval()
    captured = capture(tapped, example)
    seconds["capture"] = clock.lap()
    tap = 2 * len(taps) // 3
    width = taps[tap].width
    kept = {tap: np.sort(np.random.default_rng(0).choice(width, width // 5, replace=False))}
    full, cut = cost_of(captured), cost_of(captured, kept, round_to=8)
    clock.lap()
    sliced = slice_graph(captured, kept, round_to=8)
    seconds["slice"] = clock.lap()
    with tempfile.TemporaryDirectory() as folder:
        torch.onnx.export(export_program(sliced, example), dynamo=True, verbose=False).save(Path(folder) / "m.onnx")
    seconds["export"] = clock.lap()
    return {
        "model": name,
        "tap": taps[tap].name,
        "seconds": {step: round(spent, 2) for step, spent in seconds.items()},
        "weights_mib": round(sum(p.numel() * p.element_size() for p in backbone.parameters()) / 2**20, 1),
        "peak_mib": round(peak_mib()),
        "imports_mib": round(imported_mib),
        "gmacs_full": round(full.macs / 1e9, 3),
        "gmacs_cut": round(cut.macs / 1e9, 3),
    }


class Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self.last = self.last, time.perf_counter()
        return self.last - before


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = {"torch": torch, "timm": timm, "onnx": onnx}
    versions = {name: package.__version__ for name, package in packages.items()} | {"python": platform.python_version()}
    described = {"system": platform.platform(), "cpu": _cpu(), "n_cpus": os.cpu_count(), "n_threads": N_THREADS}
    return described | {"versions": versions}


def _cpu() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a markdown table."""
    lines = [
        "| model | taps, s | capture, s | slice, s | ONNX export, s | weights, MiB | peak, MiB (imports alone) |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        steps = " | ".join(f"{row['seconds'][step]:.1f}" for step in ("taps", "capture", "slice", "export"))
        lines.append(f"| {row['model']} | {steps} | {row['weights_mib']} | {row['peak_mib']} ({row['imports_mib']}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Does fewer MACs mean faster? Latency of sliced networks against the full one in ONNX Runtime, ten families.

    python benchmarks/latency.py [--seconds N]

Random weights; a random fifth of the neurons is kept, of the head and of the tap two thirds of the way. Batch 1, one
thread, interleaved in one process. Writes ``benchmarks/results/latency.json`` and prints its table.
"""

import argparse
import tempfile
from pathlib import Path

import _record
import numpy as np

from prune_tool import defaults
from prune_tool.deploy.bench import Conditions, bench
from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.pipeline.subject import Subject, open_subject
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.surgery.capture import export_program
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.slicing import slice_graph
from prune_tool.task.backbone import load_structure

MODELS = (
    "resnet18",
    "resnet50",
    "mobilenetv3_large_100",
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "regnety_004",
    "densenet121",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)
SHARE = 0.2


def write(subject: Subject, number: int, share: float, path: Path) -> float:
    """Write the network that ends at a tap with a share of its neurons; returns its MACs over the full network's."""
    width = subject.taps[number].width
    kept = np.sort(draw_permutations(width, 1, defaults.SEED)[0][: max(1, round(share * width))])
    sliced = slice_graph(subject.captured, {number: kept}, round_to=defaults.ROUND_TO).eval()
    write_onnx(export_program(sliced, subject.example), path, metadata={}, output_names=("features",))
    whole = cost_of(subject.captured).macs
    return cost_of(subject.captured, {number: kept}, round_to=defaults.ROUND_TO).macs / whole


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6.0)
    seconds = parser.parse_args().seconds
    rows = []
    print("| backbone | full, ms | head, a fifth | MACs | two thirds deep, a fifth | MACs |\n|---|--:|--:|--:|--:|--:|")
    for model in MODELS:
        subject = open_subject(load_structure(model))
        last, middle = len(subject.taps) - 1, 2 * len(subject.taps) // 3
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{name}.onnx" for name in ("full", "head", "middle")}
            write(subject, last, 1.0, paths["full"])
            macs = {"head": write(subject, last, SHARE, paths["head"])}
            macs["middle"] = write(subject, middle, SHARE, paths["middle"])
            timings = {t.contender: t for t in bench(paths, Conditions(threads=(1,), seconds=seconds)).timings}
        row = {
            "model": model,
            "tap": subject.taps[middle].name,
            "full_p50_ms": timings["full"].p50_ms,
            **{
                f"{name}_{what}": value
                for name in ("head", "middle")
                for what, value in (
                    ("speedup", timings[name].speedup.median),
                    ("speedup_low", timings[name].speedup.low),
                    ("speedup_high", timings[name].speedup.high),
                    ("macs_share", macs[name]),
                )
            },
        }
        rows.append(row)
        print(
            f"| {model} | {row['full_p50_ms']:.1f} | {row['head_speedup']:.2f}x | {macs['head']:.2f}"
            f" | {row['middle_speedup']:.2f}x (`{row['tap']}`) | {macs['middle']:.2f} |",
            flush=True,
        )
    packages = ("torch", "timm", "onnx", "onnxruntime")
    _record.save("latency", {"batch_size": 1, "n_threads": 1, "share": SHARE, "rows": rows}, packages)


if __name__ == "__main__":
    main()

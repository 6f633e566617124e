"""Does the sweep stay in bounded memory where validation is as large as ImageNet's?

    python benchmarks/sweep_large.py [--out FOLDER]

50,000 validation images, 1,000 classes, 2,048 neurons (synthetic, float32): peak resident memory and seconds of the
sweep over 64 sizes of two draws, each task in a process of its own, beside a hundredth of the images. Scores of all
images, classes and sizes together would take 24 GiB a draw; what is held is the images' features once, and blocks of
the rest.
Writes ``sweep-large.json`` into FOLDER (``benchmarks/results``).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _record
import numpy as np

from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations, size_grid
from prune_tool.redundancy.sweep import sweep_draws

N_CLASSES, WIDTH, N_DRAWS, N_SIZES, RIDGE = 1_000, 2_048, 2, 64, 1e-2
N_TRAIN, BLOCK = 20_480, 4_096
TASKS = (500, 50_000)


def peak_mib() -> float:
    """Most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n_val: int) -> dict[str, Any]:
    """One sweep in this process."""
    rng = np.random.default_rng(0)
    accumulator = MomentsAccumulator(WIDTH, N_CLASSES)
    for _ in range(N_TRAIN // BLOCK):
        features = rng.standard_normal((BLOCK, WIDTH), dtype=np.float32)
        accumulator.update(features, rng.integers(0, N_CLASSES, BLOCK))
    moments, draws = accumulator.freeze(), draw_permutations(WIDTH, N_DRAWS, seed=0)
    val = HeldOut(rng.standard_normal((n_val, WIDTH), dtype=np.float32), rng.integers(0, N_CLASSES, n_val))
    before, start = peak_mib(), time.perf_counter()
    sweep_draws(moments, val, draws, size_grid(WIDTH, N_SIZES), (RIDGE,))
    seconds = time.perf_counter() - start
    return {
        "n_val": n_val,
        "features_mib": val.features.nbytes / 2**20,
        "before_mib": before,
        "peak_mib": peak_mib(),
        "seconds": seconds,
    }


def main() -> None:
    """Measure each task in a fresh process, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    command = [sys.executable, __file__, "--one"]
    outputs = [subprocess.run([*command, str(n)], check=True, capture_output=True, text=True).stdout for n in TASKS]
    found = [json.loads(output) for output in outputs]
    task = {"n_classes": N_CLASSES, "width": WIDTH, "n_draws": N_DRAWS, "n_sizes": N_SIZES, "n_train": N_TRAIN}
    _record.save("sweep-large", {"task": task, "runs": found}, ("numpy", "torch"), arguments.out)
    for run in found:
        held = f"{run['before_mib']:,.0f} before the sweep, features {run['features_mib']:,.0f}"
        print(f"{run['n_val']:,} validation images: peak {run['peak_mib']:,.0f} MiB ({held}), {run['seconds']:.1f} s")


if __name__ == "__main__":
    main()

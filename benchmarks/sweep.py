"""What the sweep costs: every subset size of ten draws, against its bare linear algebra and against one logistic fit.

    python benchmarks/sweep.py

Synthetic features with a decaying spectrum: 1,280 neurons, ten classes, 10,000 training and 5,000 validation images.
Writes ``benchmarks/results/sweep.json`` and prints its table.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression

from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.logistic import fit_logistic
from prune_tool.redundancy.moments import Moments, MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.redundancy.sweep import sweep

WIDTH, N_CLASSES, N_TRAIN, N_VAL, N_DRAWS = 1280, 10, 10_000, 5_000, 10
RIDGE, STRENGTH = 1e-2, 1e-2
RESULT = Path(__file__).parent / "results" / "sweep.json"


def synthetic(seed: int) -> tuple[Float64, Int64, Float64, Int64]:
    """Train and validation features, with labels; neuron variances spread over a spectrum that decays as 1 / rank."""
    rng = np.random.default_rng(seed)
    n_images = N_TRAIN + N_VAL
    labels = rng.integers(0, N_CLASSES, n_images)
    latent = rng.standard_normal((n_images, WIDTH)) + 0.12 * rng.standard_normal((N_CLASSES, WIDTH))[labels]
    rotation = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    features = latent / np.sqrt(np.arange(1, WIDTH + 1)) @ rotation
    return features[:N_TRAIN], labels[:N_TRAIN], features[N_TRAIN:], labels[N_TRAIN:]


def bare(moments: Moments, val: Float64, permutation: Int64) -> None:
    """The least that any method must do: factor, solve, and multiply once for the scores of the full layer."""
    gram = torch.tensor(moments.gram[np.ix_(permutation, permutation)])
    gram.diagonal().add_(RIDGE * moments.n_images)
    L = torch.linalg.cholesky(gram)
    Z = torch.linalg.solve_triangular(L, torch.tensor(moments.cross[permutation]), upper=False)
    V = torch.linalg.solve_triangular(L, torch.from_numpy(val[:, permutation]).mT, upper=False)
    _ = Z.mT @ V


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure() -> dict[str, float]:
    """Seconds of each contestant. Draws of the sweep and of the bare algebra alternate, so that noise hits both."""
    train, labels, val, val_labels = synthetic(seed=0)
    accumulator = MomentsAccumulator(WIDTH, N_CLASSES)
    learning = seconds(lambda: accumulator.update(train, labels))
    moments, draws = accumulator.freeze(), draw_permutations(WIDTH, N_DRAWS, seed=0)
    standardised, every = moments.standardise(val), np.arange(1, WIDTH + 1)
    sweep(moments, val, val_labels, draws[0], every, RIDGE)  # warm the libraries up
    swept, least = [], []
    for draw in draws:
        swept.append(seconds(partial(sweep, moments, val, val_labels, draw, every, RIDGE)))
        least.append(seconds(partial(bare, moments, standardised, draw)))
    X = moments.standardise(train)
    theirs = LogisticRegression(C=1 / (STRENGTH * N_TRAIN), tol=1e-6, max_iter=10_000)
    return {
        "moments": learning,
        "sweep": sum(swept),
        "bare": sum(least),
        "logistic": seconds(lambda: fit_logistic(train, labels, N_CLASSES, STRENGTH)),
        "scikit_learn": seconds(lambda: theirs.fit(X, labels)),
    }


def machine() -> dict[str, object]:
    """Processor and versions, as far as they decide the seconds."""
    cpu_info = Path("/proc/cpuinfo")
    models = (
        [line for line in cpu_info.read_text().splitlines() if line.startswith("model name")]
        if cpu_info.exists()
        else []
    )
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "scikit_learn": sklearn.__version__,
    }


def table(taken: dict[str, float]) -> str:
    """The result in Markdown."""
    n_probes = N_DRAWS * WIDTH
    rows = {
        f"sweep: {n_probes:,} ridge probes ({WIDTH:,} sizes x {N_DRAWS} draws)": taken["sweep"],
        f"bare factorisation, solve and one product, x {N_DRAWS}": taken["bare"],
        f"moments of {N_TRAIN:,} images, once": taken["moments"],
        "one full-width logistic probe (ours)": taken["logistic"],
        "one full-width logistic probe (scikit-learn)": taken["scikit_learn"],
    }
    lines = ["| work | seconds | of the sweep |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {s:.2f} | {s / taken['sweep']:.2f} |" for name, s in rows.items())])


def main() -> None:
    """Measure, write, print."""
    taken = measure()
    result = {
        "machine": machine(),
        "task": {"width": WIDTH, "n_classes": N_CLASSES, "n_train": N_TRAIN, "n_val": N_VAL, "n_draws": N_DRAWS},
        "seconds": taken,
        "ratios": {
            "sweep_to_bare": taken["sweep"] / taken["bare"],
            "scikit_learn_to_sweep": taken["scikit_learn"] / taken["sweep"],
            "scikit_learn_to_logistic": taken["scikit_learn"] / taken["logistic"],
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(table(taken))


if __name__ == "__main__":
    main()

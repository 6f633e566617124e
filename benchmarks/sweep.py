"""What the sweep costs: every subset size of ten draws, against bare linear algebra and against a probe a subset.

    python benchmarks/sweep.py [--features FILE.npz] [--device cpu|cuda] [--quick] [--out FOLDER]

By default on synthetic features with a decaying spectrum: 1,280 neurons, ten classes, 10,000 training and 5,000
validation images. FILE.npz has train (n, d), train_labels (n,), val (m, d) and val_labels (m,). ``--quick`` is a smoke
test on tiny features. Writes ``sweep[-cuda].json`` into FOLDER (``benchmarks/results``) and prints its table.

One probe at a time is timed on a handful of sizes: scikit-learn's ``LogisticRegression`` at its default tolerance and
one strength, the recipe of Nanda et al. (``_recipe.py``), and prune-tool's own converged logistic probe. What a mean
subset costs them is read off the line through those sizes, over all sizes from 1 to the full layer. The sweep's
seconds include gathering the moments and choosing the ridge strength among four; a scikit-learn fit is given the
strength, and its features already standardised. Accuracies are of the validation images on which strengths were
chosen, for all but SGD.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import _record
import numpy as np
import torch
from _recipe import fit_recipe, n_correct
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from prune_tool import defaults
from prune_tool.redundancy.checks import Features, Float64, Int64
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.logistic import choose_logistic, fit_logistic
from prune_tool.redundancy.moments import Moments, MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.redundancy.sweep import Curve, sweep_draws

T = TypeVar("T")

RIDGE = 1e-2
TIGHT = 1e-6  # scikit-learn's tolerance where its fit is compared with ours, which stops at a gradient of 1e-6
CONTESTANTS = ("logistic", "scikit_learn", "sgd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure: of the sweep (draws, rounds) and one at a time (fractions of the layer, draws)."""

    n_draws: int = 10
    n_rounds: int = 3
    fractions: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5, 1.0)
    n_probed_draws: int = 3


QUICK = Effort(n_draws=3, n_rounds=1, fractions=(0.2, 1.0), n_probed_draws=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Features ``train (n, d)`` and ``val (m, d)`` with their labels."""

    name: str
    train: Features
    train_labels: Int64
    val: Features
    val_labels: Int64

    @property
    def width(self) -> int:
        """Neurons of the full layer."""
        return int(self.train.shape[1])

    @property
    def held_out(self) -> HeldOut:
        """The validation images."""
        return HeldOut(self.val, self.val_labels)

    @property
    def n_classes(self) -> int:
        """Classes among the labels."""
        return int(max(self.train_labels.max(), self.val_labels.max())) + 1


def synthetic(width: int, n_train: int, n_val: int, n_classes: int = 10) -> Task:
    """Neuron variances spread over a spectrum that decays as 1 / rank."""
    rng = np.random.default_rng(0)
    n_images = n_train + n_val
    labels = rng.integers(0, n_classes, n_images)
    latent = rng.standard_normal((n_images, width)) + 0.12 * rng.standard_normal((n_classes, width))[labels]
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
    features = latent / np.sqrt(np.arange(1, width + 1)) @ rotation
    return Task(
        name="synthetic",
        train=features[:n_train],
        train_labels=labels[:n_train],
        val=features[n_train:],
        val_labels=labels[n_train:],
    )


def stored(path: Path) -> Task:
    """Features of real images."""
    with np.load(path, allow_pickle=False) as arrays:
        return Task(
            name=path.name,
            train=arrays["train"],
            train_labels=arrays["train_labels"].astype(np.int64),
            val=arrays["val"],
            val_labels=arrays["val_labels"].astype(np.int64),
        )


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What ``work`` returns, and its wall-clock seconds; a GPU is waited for."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def bare_algebra(moments: Moments, val: Float64, device: str) -> Callable[[Int64], Tensor]:
    """The least that any method must do with a draw: factor, solve, multiply once for the scores of the full layer."""
    G, B = torch.tensor(moments.gram, device=device), torch.tensor(moments.cross, device=device)
    X = torch.tensor(val, device=device)

    def algebra(permutation: Int64) -> Tensor:
        p = torch.tensor(permutation, device=device)
        gram = G[p][:, p]
        gram.diagonal().add_(RIDGE * moments.n_images)
        L = torch.linalg.cholesky(gram)
        Z = torch.linalg.solve_triangular(L, B[p], upper=False)
        V = torch.linalg.solve_triangular(L, X[:, p].mT, upper=False)
        scores: Tensor = Z.mT @ V
        return scores

    return algebra


def gather(task: Task) -> Moments:
    """Moments of the training images."""
    accumulator = MomentsAccumulator(task.width, task.n_classes)
    accumulator.update(task.train, task.train_labels)
    return accumulator.freeze()


def measure_sweep(task: Task, draws: Int64, device: str, n_rounds: int) -> tuple[Curve, dict[str, Any]]:
    """The curve at every size, and seconds; contestants alternate, so that noise hits them all."""
    moments, gathering = timed(lambda: gather(task))
    every = np.arange(1, task.width + 1)
    swept = partial(sweep_draws, moments, task.held_out, draws, every, device=device)
    algebra = bare_algebra(moments, moments.standardise(task.val), device)
    sweep_draws(moments, task.held_out, draws[:1], every[-1:], (RIDGE,), device)  # warm the libraries up
    algebra(draws[0])
    rounds: dict[str, list[float]] = {"sweep": [], "bare": [], "sweep_and_choose": []}
    for _ in range(n_rounds):
        rounds["sweep"].append(timed(lambda: swept(ridge_grid=(RIDGE,)))[1])
        rounds["bare"].append(timed(lambda: [algebra(draw) for draw in draws])[1])
        curve, seconds = timed(lambda: swept(ridge_grid=defaults.RIDGE_GRID))
        rounds["sweep_and_choose"].append(seconds)
    return curve, {"moments": gathering, "rounds": rounds}


def scikit_learn(task: Task, moments: Moments, strength: float, tolerance: float | None) -> dict[str, float]:
    """Seconds and accuracy of one fit of prune-tool's objective on standardised features."""
    X, val = moments.standardise(task.train), moments.standardise(task.val)
    given = {} if tolerance is None else {"tol": tolerance}
    probe = LogisticRegression(C=1 / (strength * len(X)), max_iter=10_000, **given)
    _, seconds = timed(lambda: probe.fit(X, task.train_labels))
    return {"seconds": seconds, "accuracy": float(np.mean(probe.predict(val) == task.val_labels))}


def probe_one(task: Task, neurons: Int64, device: str, strength: float | None) -> dict[str, Any]:
    """Seconds and accuracy of every contestant on one subset; ``strength=None`` chooses it first, untimed."""
    part = Task(
        name=task.name,
        train=task.train[:, neurons],
        train_labels=task.train_labels,
        val=task.val[:, neurons],
        val_labels=task.val_labels,
    )
    training = part.train, part.train_labels
    if strength is None:
        strength = choose_logistic(*training, part.held_out, task.n_classes, defaults.LOGISTIC_GRID).strength
    logistic, logistic_s = timed(lambda: fit_logistic(*training, task.n_classes, strength))
    sgd, sgd_s = timed(lambda: fit_recipe(*training, task.n_classes, device, seed=0))
    return {
        "size": len(neurons),
        "strength": strength,
        "logistic": {"seconds": logistic_s, "accuracy": logistic.score(part.held_out).accuracy},
        "scikit_learn": scikit_learn(part, gather(part), strength, None),
        "sgd": {"seconds": sgd_s, "accuracy": n_correct(sgd, part.val, part.val_labels) / len(part.val)},
    }


def measure_probes(task: Task, draws: Int64, curve: Curve, device: str, effort: Effort) -> list[dict[str, Any]]:
    """One probe at a time on prefixes of some draws; the full layer once. A size's strength is chosen on its draw 0."""
    probes = []
    for size in sorted({max(1, int(fraction * task.width)) for fraction in effort.fractions}):
        strength = None
        for i in range(effort.n_probed_draws if size < task.width else 1):
            probe = probe_one(task, draws[i][:size], device, strength)
            strength = probe["strength"]
            ridge = {"accuracy": float(curve.n_correct[i, size - 1] / curve.n_val)}
            probes.append({**probe, "draw": i, "ridge": ridge})
    return probes


def by_size(probes: list[dict[str, Any]]) -> dict[int, dict[str, dict[str, float]]]:
    """Mean seconds and accuracy over draws, by size and contestant."""
    found: dict[int, dict[str, dict[str, float]]] = {}
    for size in sorted({probe["size"] for probe in probes}):
        here = [probe for probe in probes if probe["size"] == size]
        found[size] = {
            name: {what: statistics.mean(probe[name][what] for probe in here) for what in here[0][name]}
            for name in ("ridge", *CONTESTANTS)
        }
    return found


def summary(task: Task, n_draws: int, taken: dict[str, Any], probes: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds a subset, and the ratios that the aims are about."""
    sizes, rounds = by_size(probes), {name: statistics.median(s) for name, s in taken["rounds"].items()}
    every = np.arange(1, task.width + 1)
    per_subset = {"sweep": (taken["moments"] + rounds["sweep_and_choose"]) / (n_draws * task.width)}
    for name in CONTESTANTS:
        line = np.interp(every, list(sizes), [size[name]["seconds"] for size in sizes.values()])
        per_subset[name] = float(line.mean())
    gaps = [
        size["logistic"]["accuracy"] - size["ridge"]["accuracy"]
        for k, size in sizes.items()
        if k >= int(0.2 * task.width)
    ]
    return {
        "seconds_per_subset": per_subset,
        "times_faster_per_subset": {name: per_subset[name] / per_subset["sweep"] for name in CONTESTANTS},
        "sweep_to_bare": rounds["sweep"] / rounds["bare"],
        "largest_accuracy_below_logistic_from_20_percent": max(gaps),
    }


def table(task: Task, n_draws: int, probes: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = ["| contestant | seconds a subset | sweep is faster |", "|---|---|---|"]
    for name, seconds in found["seconds_per_subset"].items():
        faster = found["times_faster_per_subset"].get(name)
        lines.append(f"| {name} | {seconds:.3g} | {f'{faster:,.0f}x' if faster else ''} |")
    lines += ["", "| neurons | ridge | logistic | scikit-learn | SGD recipe |", "|---|---|---|---|---|"]
    for k, size in by_size(probes).items():
        cells = [f"{100 * size['ridge']['accuracy']:.1f} %"]
        cells += [f"{100 * size[c]['accuracy']:.1f} % in {size[c]['seconds']:.2f} s" for c in CONTESTANTS]
        lines.append(f"| {k} ({k / task.width:.0%}) | {' | '.join(cells)} |")
    gap = 100 * found["largest_accuracy_below_logistic_from_20_percent"]
    verdict = (
        f"{n_draws * task.width:,} ridge probes in {found['sweep_to_bare']:.2f} times the bare factorisation, solve and"
        f" product (aim: 2 at most); {found['times_faster_per_subset']['scikit_learn']:,.0f} times faster a subset than"
        f" scikit-learn (aim: 1,000); at most {gap:.2f} points below the converged logistic probe from 20 % of the"
        " neurons up (aim: 0.5)."
    )
    return "\n".join([*lines, "", verdict])


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else Effort()
    shape = (64, 1000, 500) if arguments.quick else (1280, 10_000, 5_000)
    task = stored(arguments.features) if arguments.features else synthetic(*shape)
    draws = draw_permutations(task.width, effort.n_draws, seed=defaults.SEED)
    curve, taken = measure_sweep(task, draws, arguments.device, effort.n_rounds)
    probes = measure_probes(task, draws, curve, arguments.device, effort)
    tight = scikit_learn(task, gather(task), probes[-1]["strength"], TIGHT)
    found = summary(task, effort.n_draws, taken, probes)
    found["scikit_learn_to_logistic_full_width"] = tight["seconds"] / probes[-1]["logistic"]["seconds"]
    sizes = {"width": task.width, "n_classes": task.n_classes, "n_train": len(task.train), "n_val": len(task.val)}
    result = {
        "task": {"features": task.name, **sizes, "n_draws": effort.n_draws},
        "device": arguments.device,
        "seconds": taken,
        **found,
        "one_at_a_time": probes,
        "scikit_learn_tight_full_width": tight,
    }
    name = "sweep" if arguments.device == "cpu" else f"sweep-{arguments.device}"
    _record.save(name, result, ("numpy", "torch", "scikit-learn"), arguments.out)
    print(table(task, effort.n_draws, probes, found))


if __name__ == "__main__":
    main()

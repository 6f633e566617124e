"""Diffuse redundancy of real backbones, beside what Nanda et al. (NeurIPS 2023) published in Table 1 and their figures.

    python benchmarks/paper.py [--recipe] [--only MODEL/DATA ...] [--images N] [--device cpu|cuda] [--out FOLDER]

For each backbone and data set of ``PRUNE_TOOL_ASSETS``: test accuracy against the fraction of penultimate neurons kept,
for exact ridge probes (every size, ten draws), converged logistic probes (three draws) and, with ``--recipe``, probes
trained as the paper's are (``_recipe.py``, three draws); linear CKA; and as comparisons, under ridge probes, principal
components, random projections, the first k neurons and pivoted ones. Strengths are chosen on validation images, for
ridge per size and for logistic probes per subset; the recipe has none to choose. All probes see the same training
images, and none the test images.

Measured pairs go into FOLDER's ``paper.json`` (``benchmarks/results``) beside those already there, so that pairs can be
run one by one with ``--only`` (shell patterns work); ``paper.png`` and ``paper.svg`` are drawn of all. ``--render``
measures nothing and draws again. ``--features FOLDER`` keeps the neurons as .npz files that ``sweep.py`` reads.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import _record
import numpy as np
from _assets import DATA, MODELS, Neurons, penultimate
from _paper_plot import draw
from _paper_report import report
from _recipe import fit_recipe, n_correct

from prune_tool import defaults
from prune_tool.redundancy.checks import Features, Int64
from prune_tool.redundancy.directions import Projection, in_order, principal_basis, project, random_basis
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.logistic import choose_logistic
from prune_tool.redundancy.measures import diffuse_redundancy
from prune_tool.redundancy.moments import Moments, MomentsAccumulator
from prune_tool.redundancy.pivoted import pivoted_order
from prune_tool.redundancy.similarity import linear_cka
from prune_tool.redundancy.subsets import draw_permutations, size_grid
from prune_tool.redundancy.sweep import Curve, sweep, sweep_draws

AUTHORS_GRID = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0)  # of their scripts, from one neuron in a hundred up
GRID = tuple(sorted({*AUTHORS_GRID, 0.02}))
DELTA = 0.9
N_PROBED_DRAWS = 3
PIVOT_RIDGE = 1e-2
PACKAGES = ("numpy", "torch", "timm", "matplotlib")

Fit = Callable[[Int64, int], int]
"""Neurons (k,) and a seed -> correct test predictions of a probe on them."""


def sizes_at(width: int, fractions: tuple[float, ...]) -> Int64:
    """Neurons that ``fractions`` of a layer are, rounded down as the authors do; at least one."""
    return np.unique([max(1, int(fraction * width + 1e-9)) for fraction in fractions])


def ridge_curve(
    moments: Moments, task: Neurons, draws: Int64, sizes: Int64, device: str, seen: Projection | None = None
) -> Curve:
    """Test accuracy of ridge probes on prefixes of ``draws``, each size with the strength that serves validation best.

    ``seen`` reads the layer along directions; ``moments`` are then those of the projection.
    """

    def read(features: Features) -> Features:
        return features if seen is None else seen.features(features)

    val, test = read(task.val), read(task.test)
    ridge = sweep_draws(moments, HeldOut(val, task.val_labels), draws, sizes, defaults.RIDGE_GRID, device).ridge
    correct = np.empty((len(draws), len(sizes)), np.int64)
    for strength in np.unique(ridge):
        at = ridge == strength
        for i, permutation in enumerate(draws):
            held_out = HeldOut(test, task.test_labels)
            correct[i, at] = sweep(moments, held_out, permutation, sizes[at], float(strength), device)
    return Curve(width=draws.shape[1], sizes=sizes, n_correct=correct, n_val=len(test), ridge=ridge)


def ridge_curves(moments: Moments, task: Neurons, draws: Int64, device: str) -> dict[str, Curve]:
    """Random neurons at every size, and what they are compared with on the grid."""
    width, grid = task.width, sizes_at(task.width, GRID)
    principal = project(moments, principal_basis(moments))
    turned = project(moments, random_basis(width, defaults.SEED))
    pivoted = pivoted_order(moments, width, PIVOT_RIDGE)[None]
    return {
        "ridge": ridge_curve(moments, task, draws, np.arange(1, width + 1), device),
        "principal components": ridge_curve(principal.moments, task, in_order(width), grid, device, principal),
        "random projection": ridge_curve(turned.moments, task, draws, grid, device, turned),
        "first k": ridge_curve(moments, task, in_order(width), grid, device),
        "pivoted": ridge_curve(moments, task, pivoted, grid, device),
    }


def probed_curve(task: Neurons, draws: Int64, fit: Fit) -> Curve:
    """Test accuracy of one probe a subset, on the grid; the full layer, the same in every draw, is fitted once."""
    sizes = sizes_at(task.width, GRID)
    correct = np.empty((N_PROBED_DRAWS, len(sizes)), np.int64)
    for s, size in enumerate(sizes):
        if size == task.width:
            correct[:, s] = fit(np.arange(task.width), 0)
        else:
            correct[:, s] = [fit(draw[:size], seed) for seed, draw in enumerate(draws[:N_PROBED_DRAWS])]
    no_ridge = np.full(len(sizes), np.nan)
    return Curve(width=task.width, sizes=sizes, n_correct=correct, n_val=len(task.test), ridge=no_ridge)


def logistic_fit(task: Neurons, gradients: list[float]) -> Fit:
    """Converged logistic probes; the gradient that each was left with is noted in ``gradients``."""

    def fit(neurons: Int64, _seed: int) -> int:
        train, val = task.train[:, neurons], task.val[:, neurons]
        strengths = defaults.LOGISTIC_GRID
        probe = choose_logistic(train, task.train_labels, HeldOut(val, task.val_labels), task.n_classes, strengths)
        gradients.append(probe.gradient_norm)
        return probe.score(HeldOut(task.test[:, neurons], task.test_labels)).n_correct

    return fit


def recipe_fit(task: Neurons, device: str) -> Fit:
    """Probes trained as the paper's are."""

    def fit(neurons: Int64, seed: int) -> int:
        probe = fit_recipe(task.train[:, neurons], task.train_labels, task.n_classes, device, seed)
        return n_correct(probe, task.test[:, neurons], task.test_labels)

    return fit


def at_sizes(curve: Curve, sizes: Int64) -> Curve:
    """The same curve at some of its sizes."""
    at = np.isin(curve.sizes, sizes)
    return replace(curve, sizes=curve.sizes[at], n_correct=curve.n_correct[:, at], ridge=curve.ridge[at])


def redundancies(curve: Curve) -> dict[str, float]:
    """Diffuse redundancy by the strict definition and by the authors' nearest grid point, on the authors' grid."""
    grid = at_sizes(curve, sizes_at(curve.width, AUTHORS_GRID))
    found = {
        "strict_grid": diffuse_redundancy(grid, DELTA).value,
        "nearest_grid": diffuse_redundancy(grid, DELTA, strict=False).value,
    }
    if len(curve.sizes) == curve.width:
        finest = diffuse_redundancy(curve, DELTA)
        found |= {"strict": finest.value, "strict_std": finest.spread}
    return found


def written(curve: Curve) -> dict[str, list[float]]:
    """A curve as it is recorded: accuracies 0 to 1 with their spread over draws, every size thinned to some."""
    sizes = np.union1d(sizes_at(curve.width, GRID), size_grid(curve.width, defaults.N_SIZES))
    thin = at_sizes(curve, sizes)
    return {
        "sizes": thin.sizes.tolist(),
        "mean": thin.accuracy.round(5).tolist(),
        "std": thin.spread.round(5).tolist(),
        "n_draws": len(thin.n_correct),
    }


def measure(task: Neurons, device: str, *, recipe: bool) -> dict[str, Any]:
    """Everything about one backbone on one data set."""
    accumulator = MomentsAccumulator(task.width, task.n_classes)
    accumulator.update(task.train, task.train_labels)
    moments = accumulator.freeze()
    draws = draw_permutations(task.width, defaults.N_DRAWS, defaults.SEED)
    _record.note("  ridge sweeps")
    curves = ridge_curves(moments, task, draws, device)
    _record.note("  converged logistic probes")
    gradients: list[float] = []
    curves["logistic"] = probed_curve(task, draws, logistic_fit(task, gradients))
    if recipe:
        _record.note("  probes by the paper's recipe")
        curves["recipe"] = probed_curve(task, draws, recipe_fit(task, device))
    grid = sizes_at(task.width, GRID)
    cka = np.mean([linear_cka(moments, draw)[grid - 1] for draw in draws], axis=0)
    probes = [name for name in ("ridge", "logistic", "recipe") if name in curves]
    return {
        "width": task.width,
        "n_classes": task.n_classes,
        "n_train": len(task.train),
        "n_val": len(task.val),
        "n_test": len(task.test),
        "delta": DELTA,
        "redundancy": {name: redundancies(curves[name]) for name in probes},
        "largest_logistic_gradient": max(gradients),
        "cka": {"sizes": grid.tolist(), "mean": cka.round(5).tolist()},
        "curves": {name: written(curve) for name, curve in curves.items()},
    }


def measure_pair(model: str, data: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Extract and measure, with the machine that did."""
    _record.note(f"{model}/{data}: extracting")
    start = time.perf_counter()
    task = penultimate(model, data, arguments.images, arguments.device)
    if arguments.features:
        arguments.features.mkdir(parents=True, exist_ok=True)
        names = ("train", "train_labels", "val", "val_labels")
        np.savez(arguments.features / f"{model}-{data}.npz", **{name: getattr(task, name) for name in names})
    extracted = time.perf_counter()
    found = measure(task, arguments.device, recipe=arguments.recipe)
    seconds = {"extract": extracted - start, "measure": time.perf_counter() - extracted}
    return {"model": model, "data": data, "machine": _record.machine(), "seconds": seconds, **found}


def main() -> None:
    """Measure, write, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="MODEL/DATA")
    parser.add_argument("--images", type=int, metavar="N")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--features", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=_record.RESULTS, metavar="FOLDER")
    arguments = parser.parse_args()
    names = [f"{model}/{data}" for model in MODELS for data in DATA]
    chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in arguments.only or ["*"])]
    if not chosen:
        parser.error(f"--only matches none of {', '.join(names)}")
    pairs = _record.pairs_on_file("paper", arguments.out)
    for name in [] if arguments.render else chosen:
        model, data = name.split("/")
        pairs[name] = measure_pair(model, data, arguments)
        pairs = {known: pairs[known] for known in names if known in pairs}
        _record.save("paper", {"pairs": pairs}, PACKAGES, arguments.out)
    draw(pairs, arguments.out)
    print(report(pairs))


if __name__ == "__main__":
    main()

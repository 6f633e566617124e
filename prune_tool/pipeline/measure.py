"""Redundancy of every reading: each tap's neurons, and random neurons pooled over the depths up to each cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.flattery import flattery
from prune_tool.pipeline.subject import Subject
from prune_tool.records import MeasuredReading, Reading, Request
from prune_tool.redundancy.measures import diffuse_redundancy
from prune_tool.redundancy.moments import Moments, MomentsAccumulator
from prune_tool.redundancy.pivoted import pivoted_order
from prune_tool.redundancy.subsets import draw_permutations, draw_pool, size_grid
from prune_tool.redundancy.sweep import sweep_draws
from prune_tool.surgery.cost import cost_of

Indices = NDArray[np.int64]
Subset = dict[str, Indices]
"""Per tap, in the order of computation, the ascending neurons that are read."""


def readings_of(subject: Subject) -> Iterator[Reading]:
    """Every tap by itself, and the pool of the last taps up to every cut that has a tap before it."""
    taps = subject.taps
    for i, tap in enumerate(taps):
        yield Reading(trunk=subject.trunk, kind="layer", taps=(tap.name,), n_per_tap=(tap.width,))
        if i > 0:
            yield _pool(subject, i)


def _pool(subject: Subject, cut: int) -> Reading:
    last = subject.taps[max(0, cut + 1 - defaults.POOL_DEPTH) : cut + 1]
    offered = draw_pool({tap.name: tap.width for tap in last}, defaults.MAX_POOL, defaults.SEED)
    return Reading(
        trunk=subject.trunk,
        kind="pool",
        taps=tuple(offered),
        n_per_tap=tuple(len(neurons) for neurons in offered.values()),
    )


def offered_neurons(reading: Reading, subject: Subject) -> Subset:
    """The neurons a reading offers, by tap."""
    widths = {tap.name: tap.width for tap in subject.taps}
    if reading.kind == "layer":
        return {reading.cut: np.arange(widths[reading.cut])}
    return draw_pool({tap: widths[tap] for tap in reading.taps}, defaults.MAX_POOL, defaults.SEED)


def prefix_subset(reading: Reading, subject: Subject, order: Indices, n_neurons: int) -> Subset:
    """The first ``n_neurons`` of an order of what the reading offers, by tap; taps without any are absent."""
    offered = offered_neurons(reading, subject)
    owner = np.repeat(np.arange(len(offered)), [len(neurons) for neurons in offered.values()])
    flat = np.concatenate(list(offered.values()))
    prefix = order[:n_neurons]
    chosen = {tap: np.sort(flat[prefix[owner[prefix] == i]]) for i, tap in enumerate(offered)}
    return {tap: neurons for tap, neurons in chosen.items() if len(neurons)}


def kept_outputs(subset: Subset, subject: Subject) -> dict[int, Indices]:
    """A subset in the terms of ``slice_graph``: output number -> kept indices."""
    number = {tap.name: i for i, tap in enumerate(subject.taps)}
    return {number[tap]: neurons for tap, neurons in subset.items()}


def orders_of(reading: Reading, moments: Callable[[], Moments], request: Request) -> NDArray[np.int64]:
    """Orders (r, width) of what a reading offers, whose prefixes are the subsets: random draws, or the greedy one."""
    if request.strategy == "pivoted":
        return pivoted_order(moments(), reading.width, defaults.PIVOT_RIDGE)[None]
    return draw_permutations(reading.width, request.n_draws, request.seed)


def moments_of(reading: Reading, subject: Subject, data: FitData) -> tuple[Moments, NDArray[np.float32]]:
    """Moments of a reading's training features, and its validation features (n_val, width)."""
    offered = offered_neurons(reading, subject)
    accumulator = MomentsAccumulator(reading.width, data.n_classes)
    for rows, features in data.features.blocks(reading.trunk, offered, data.train):
        accumulator.update(features, data.labels[rows])
    return accumulator.freeze(), data.features.columns(reading.trunk, offered, data.val)


def measure(
    subject: Subject,
    reading: Reading,
    data: FitData,
    request: Request,
    strengths: Sequence[float] = defaults.RIDGE_GRID,
) -> MeasuredReading:
    """Sweep the subsets of one reading.

    Args:
        subject: the reading's trunk.
        reading: what to sweep.
        data: training and validation neurons.
        request: says how subsets are picked, how many draws, from which seed, on which device.
        strengths: of ridge probes, to choose from.
    """
    moments, val = moments_of(reading, subject, data)
    orders = orders_of(reading, lambda: moments, request)
    sizes = size_grid(reading.width, defaults.N_SIZES)
    curve = sweep_draws(moments, data.judged(val), orders, sizes, strengths, device=request.device)
    redundancy = diffuse_redundancy(curve, defaults.DELTA)
    few = prefix_subset(reading, subject, orders[0], min(reading.width, defaults.N_FLATTERY))
    cost = cost_of(subject.captured, kept_outputs(offered_neurons(reading, subject), subject))
    return MeasuredReading(
        reading=reading,
        macs=cost.macs,
        n_params=cost.n_params,
        sizes=tuple(int(size) for size in curve.sizes),
        n_correct=tuple(tuple(draw) for draw in curve.n_correct.tolist()),
        n_val=curve.n_val,
        ridge=tuple(curve.ridge.tolist()),
        critical_size=redundancy.critical.size,
        critical_size_std=redundancy.critical.std,
        redundancy=redundancy.value,
        redundancy_nearest=diffuse_redundancy(curve, defaults.DELTA, strict=False).value,
        flattery=flattery(data, reading.trunk, few, request.device),
    )

"""Logistic probes on subsets of readings: from a reading and a size to a candidate that could ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prune_tool import defaults
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.measure import Subset, kept_outputs, moments_of, orders_of, prefix_subset
from prune_tool.pipeline.sizing import float32_bytes
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Candidate, Reading, Score, Trunk
from prune_tool.redundancy.logistic import LogisticProbe, choose_logistic
from prune_tool.surgery.cost import Cost, cost_of


def subset_of(workspace: Workspace, data: FitData, reading: Reading, n_neurons: int) -> Subset:
    """The subset that ships at this size: a prefix of the first draw, or of the pivoted order."""
    subject = workspace.subject(reading.trunk)
    first = workspace.once(
        f"order of {reading}",
        lambda: orders_of(reading, lambda: moments_of(reading, subject, data)[0], workspace.request)[0],
    )
    return prefix_subset(reading, subject, first, n_neurons)


def fit_probe(
    data: FitData, trunk: Trunk, subset: Subset, strengths: Sequence[float] = defaults.LOGISTIC_GRID
) -> LogisticProbe:
    """The converged logistic probe of a subset, its strength chosen on the validation images."""
    train, val = (data.features.columns(trunk, subset, rows) for rows in (data.fit, data.val))
    return choose_logistic(train, data.labels[data.fit], data.judged(val), data.n_classes, strengths)


def score_probe(data: FitData, trunk: Trunk, subset: Subset, probe: LogisticProbe) -> Score:
    """What a probe is worth on the validation images, and probes of its strength on training images that had no part.

    Args:
        data: says which images take turns to judge.
        trunk: what computes the neurons.
        subset: per tap, the neurons that the probe reads.
        probe: from ``fit_probe``; where the other fits begin.
    """
    scores = [probe.score(data.judged(data.features.columns(trunk, subset, data.val)))]
    if not data.turns:
        return scores[0]
    neurons = data.features.columns(trunk, subset, np.arange(len(data.labels)))  # read once for all turns
    for turn in data.turns:
        held_out = data.judged(neurons[turn.val], turn.val)
        other = choose_logistic(
            neurons[turn.fit], data.labels[turn.fit], held_out, data.n_classes, (probe.strength,), start=probe
        )
        scores.append(other.score(held_out))
    return Score(n_correct=sum(s.n_correct for s in scores), n_images=sum(s.n_images for s in scores))


def probe_candidate(
    workspace: Workspace,
    data: FitData,
    number: int,
    reading: Reading,
    n_neurons: int,
    strengths: Sequence[float] = defaults.LOGISTIC_GRID,
) -> Candidate:
    """Fit and cost the subset of ``n_neurons`` of a reading (``number`` is its place in the analysis)."""
    subset = subset_of(workspace, data, reading, n_neurons)
    probe = fit_probe(data, reading.trunk, subset, strengths)
    price = price_of(workspace, data, reading, n_neurons)
    return Candidate(
        reading=number,
        n_neurons=n_neurons,
        macs=price.macs,
        n_params=price.n_params,
        n_bytes=price.n_bytes,
        val=score_probe(data, reading.trunk, subset, probe),
        strength=probe.strength,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a network with its probe costs: MACs an image, parameters, and bytes of its float32 file as predicted."""

    macs: int
    n_params: int
    n_bytes: int


def price_of(workspace: Workspace, data: FitData, reading: Reading, n_neurons: int) -> Price:
    """Price of ``n_neurons`` of a reading; no probe is fitted."""
    subject = workspace.subject(reading.trunk)
    subset = subset_of(workspace, data, reading, n_neurons)
    trunk = cost_of(subject.captured, kept_outputs(subset, subject), round_to=workspace.request.round_to)
    return price_with_probe(workspace, trunk, subset)


def price_with_probe(workspace: Workspace, trunk: Cost, subset: Subset) -> Price:
    """Price of a trunk that puts out a subset, with the probe on it."""
    n_classes, n_neurons = len(workspace.source.classes), sum(map(len, subset.values()))
    n_probe = n_classes * n_neurons
    cost = Cost(macs=trunk.macs + n_probe, n_params=trunk.n_params + n_probe + n_classes, n_calls=trunk.n_calls + 1)
    n_bytes = float32_bytes(cost, subset, workspace.source.classes)
    return Price(macs=cost.macs, n_params=cost.n_params, n_bytes=n_bytes)

"""Logistic probes on subsets of readings: from a reading and a size to a candidate that could ship."""

from __future__ import annotations

from collections.abc import Sequence

from prune_tool import defaults
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.measure import Subset, kept_outputs, moments_of, orders_of, prefix_subset
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Candidate, Reading, Trunk
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
    found = data.features.columns(reading.trunk, subset, data.val)
    cost = cost_with_probe(workspace, data, reading, n_neurons)
    return Candidate(
        reading=number,
        n_neurons=n_neurons,
        macs=cost.macs,
        n_params=cost.n_params,
        val=probe.score(data.judged(found)),
        strength=probe.strength,
    )


def cost_with_probe(workspace: Workspace, data: FitData, reading: Reading, n_neurons: int) -> Cost:
    """Cost of the network that reads ``n_neurons`` of a reading, probe included; no probe is fitted."""
    subject = workspace.subject(reading.trunk)
    kept = kept_outputs(subset_of(workspace, data, reading, n_neurons), subject)
    cost = cost_of(subject.captured, kept, round_to=workspace.request.round_to)
    n_probe = data.n_classes * n_neurons
    return Cost(macs=cost.macs + n_probe, n_params=cost.n_params + n_probe + data.n_classes)

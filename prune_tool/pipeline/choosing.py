"""What a budget or a limit chooses, settled on training and validation images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from prune_tool.errors import UsageError
from prune_tool.frontier.choice import cheapest_subset, most_accurate, safe_to_cheap, within_budget
from prune_tool.frontier.screen import front
from prune_tool.pipeline.analyze import probe_near
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.probing import cost_with_probe, probe_candidate
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Budget, Candidate, Limit
from prune_tool.surgery.taps import HEAD


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """What there is to choose from.

    Attributes:
        workspace: of the run.
        data: training and validation features.
        analysis: of the run.
        probed: every candidate with a converged probe, on the front or not.
    """

    workspace: Workspace
    data: FitData
    analysis: Analysis
    probed: tuple[Candidate, ...]

    def name(self, candidate: Candidate) -> str:
        """Where a candidate is cut."""
        return str(self.analysis.measured[candidate.reading].reading)


def open_pool(
    workspace: Workspace, data: FitData, analysis: Analysis, probed: tuple[Candidate, ...], taps: str | None
) -> Pool:
    """The candidates of a run that read certain taps only.

    Args:
        workspace: of the run.
        data: training and validation features.
        analysis: of the run.
        probed: its candidates; with certain taps only, others are probed instead.
        taps: as in ``export``.

    Raises:
        UsageError: the run has no such tap.
    """
    allowed = _allowed(taps, analysis)
    if allowed is not None:
        probed, _ = probe_near(workspace, data, analysis.measured, allowed)
    return Pool(workspace=workspace, data=data, analysis=analysis, probed=probed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a budget chooses, before any test image is read.

    Attributes:
        budget: the loss allowed.
        order: candidates to be tested, from safe to cheap.
    """

    budget: Budget
    order: tuple[Candidate, ...]

    @property
    def candidate(self) -> Candidate:
        """The cheapest: it ships if it and all before it pass."""
        return self.order[-1]


def choose(pool: Pool, budget: Budget, limits: Sequence[Limit] = ()) -> Choice:
    """The cheapest network that meets the budget on validation images, and those to be tested before it.

    Subsets are shrunk as far as the budget allows, with converged probes. A tighter budget never chooses a cheaper
    network. With limits, the one most accurate candidate within them is chosen, whatever the budget.

    Raises:
        BudgetError: no candidate meets the budget.
        LimitError: no candidate is within the limits.
        UsageError: a limit is on what the run did not measure.
    """
    if limits:
        _require_measured(limits, pool.analysis)
        return Choice(budget=budget, order=(most_accurate(pool.probed, limits, pool.name),))
    cost, full = pool.workspace.request.cost, pool.analysis.full.val
    eligible = within_budget(front(pool.probed, cost), full, budget, pool.name)
    with pool.workspace.progress.stage("finding the smallest subset"):
        last = cheapest_subset(
            eligible,
            cost,
            meets=lambda candidate: budget.is_met(candidate.val, full),
            shrunk=partial(_shrunk, pool),
            promised=partial(_promised, pool),
        )
    return Choice(budget=budget, order=tuple(safe_to_cheap(eligible, last, cost)))


def _shrunk(pool: Pool, candidate: Candidate, n_neurons: int) -> Candidate:
    """A smaller subset of what a candidate reads, with a probe of the same strength; fitted once for all budgets."""
    reading, strength = pool.analysis.measured[candidate.reading].reading, candidate.strength
    smaller = pool.workspace.once(
        f"{n_neurons} neurons of {reading}, strength {strength}",
        lambda: probe_candidate(pool.workspace, pool.data, candidate.reading, reading, n_neurons, (strength,)),
    )
    return replace(smaller, latency_ms=_scaled(candidate, smaller.macs))


def _promised(pool: Pool, candidate: Candidate, n_neurons: int) -> Candidate:
    """A candidate with the cost of a smaller subset and the accuracy that it has."""
    reading = pool.analysis.measured[candidate.reading].reading
    cost = cost_with_probe(pool.workspace, pool.data, reading, n_neurons)
    latency_ms = _scaled(candidate, cost.macs)
    return replace(candidate, n_neurons=n_neurons, macs=cost.macs, n_params=cost.n_params, latency_ms=latency_ms)


def _scaled(candidate: Candidate, macs: int) -> float | None:
    """Latency of a smaller subset of the same reading."""
    return None if candidate.latency_ms is None else candidate.latency_ms * macs / candidate.macs


def _require_measured(limits: Sequence[Limit], analysis: Analysis) -> None:
    if analysis.timed is None and any(limit.kind == "latency" for limit in limits):
        raise UsageError(
            asked="a limit on latency",
            found="a run that did not measure it",
            remedy="Run `prune-tool analyze` again with --cost latency",
        )


def _allowed(taps: str | None, analysis: Analysis) -> frozenset[str] | None:
    if taps is None or taps == "all":
        return None
    known = {tap for measured in analysis.measured for tap in measured.reading.taps}
    names = frozenset({HEAD} if taps == "last" else taps.split(","))
    unknown = names - known
    if unknown:
        raise UsageError(
            asked=f"--taps {taps}",
            found=f"this run has no tap {', '.join(sorted(unknown))}",
            remedy=f"It has {', '.join(sorted(known))}; `last` is {HEAD}",
        )
    return names

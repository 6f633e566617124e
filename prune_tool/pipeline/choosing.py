"""What a budget or a limit chooses, settled on training and validation images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prune_tool.errors import UsageError
from prune_tool.frontier.choice import most_accurate, safe_to_cheap, smallest_size, within_budget
from prune_tool.frontier.screen import front
from prune_tool.pipeline.analyze import probe_near
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.probing import probe_candidate
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


def candidates_to_test(pool: Pool, budget: Budget, limits: Sequence[Limit]) -> list[Candidate]:
    """From safe to cheap; the cheapest is shrunk to the smallest subset that meets the budget on validation images.

    With limits, the one most accurate candidate within them.

    Raises:
        BudgetError: no candidate meets the budget.
        LimitError: no candidate is within the limits.
        UsageError: a limit is on what the run did not measure.
    """
    if limits:
        _require_measured(limits, pool.analysis)
        return [most_accurate(pool.probed, limits, pool.name)]
    cost, full = pool.workspace.request.cost, pool.analysis.full.val
    eligible = within_budget(front(pool.probed, cost), full, budget, pool.name)
    found = {eligible[0].n_neurons: eligible[0]}

    def meets(n_neurons: int) -> bool:
        found[n_neurons] = _shrunk(pool, eligible[0], n_neurons)
        return budget.is_met(found[n_neurons].val, full)

    with pool.workspace.progress.stage("finding the smallest subset"):
        last = found[smallest_size(meets, eligible[0].n_neurons)]
    return safe_to_cheap(eligible, last, cost)


def _shrunk(pool: Pool, candidate: Candidate, n_neurons: int) -> Candidate:
    """A smaller subset of what a candidate reads, with a probe of the same strength."""
    reading = pool.analysis.measured[candidate.reading].reading
    smaller = probe_candidate(pool.workspace, pool.data, candidate.reading, reading, n_neurons, (candidate.strength,))
    latency_ms = None if candidate.latency_ms is None else candidate.latency_ms * smaller.macs / candidate.macs
    return replace(smaller, latency_ms=latency_ms)


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

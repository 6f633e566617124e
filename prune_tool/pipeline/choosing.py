"""What a budget or a limit chooses, settled on training and validation images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from prune_tool.errors import UsageError
from prune_tool.frontier.choice import by_accuracy, cheapest_subset, safe_to_cheap, within_budget
from prune_tool.frontier.screen import front
from prune_tool.pipeline.analyze import probe_near
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.job import Job
from prune_tool.pipeline.probing import price_of, probe_candidate
from prune_tool.pipeline.sizing import TOLERANCE, bytes_in_form
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Budget, Candidate, Form, Limit, Limited
from prune_tool.surgery.taps import HEAD


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """What there is to choose from.

    Attributes:
        workspace: of the run.
        data: training and validation features.
        analysis: of the run.
        probed: every candidate with a converged probe, on the front or not.
        form: of the file, which its size depends on.
    """

    workspace: Workspace
    data: FitData
    analysis: Analysis
    probed: tuple[Candidate, ...]
    form: Form

    def name(self, candidate: Candidate) -> str:
        """Where a candidate is cut."""
        return str(self.analysis.measured[candidate.reading].reading)


def open_pool(job: Job, probed: tuple[Candidate, ...]) -> Pool:
    """The candidates of a run that an export may choose from.

    Args:
        job: the export.
        probed: the run's candidates; where the export may read certain taps only, others are probed instead.

    Raises:
        UsageError: the run has no such tap.
    """
    allowed = _allowed(job.terms.taps, job.analysis)
    if allowed is not None:
        probed, _ = probe_near(job.workspace, job.data, job.analysis.measured, allowed)
    return Pool(workspace=job.workspace, data=job.data, analysis=job.analysis, probed=probed, form=job.terms.forms[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a budget chooses, before any test image is read.

    Attributes:
        budget: the loss allowed.
        order: candidates to be tested, from safe to cheap.
        or_else: candidates to be tried one by one in place of the only one, where its file turns out too large.
    """

    budget: Budget
    order: tuple[Candidate, ...]
    or_else: tuple[Candidate, ...] = ()

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
        return _within(pool, budget, limits)
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


def _within(pool: Pool, budget: Budget, limits: Sequence[Limit]) -> Choice:
    """The most accurate candidate within the limits; of sizes, the file decides, and others stand by."""
    _require_measured(limits, pool.analysis)

    def price(candidate: Candidate, kind: Limited) -> tuple[float, float]:
        if kind != "size":
            return (candidate.cost(kind)[0],) * 2
        predicted = bytes_in_form(candidate, pool.form)
        return predicted / (1 + TOLERANCE), predicted * (1 + TOLERANCE)

    first, *others = by_accuracy(pool.probed, limits, pool.name, price)
    sized = any(limit.kind == "size" for limit in limits)
    return Choice(budget=budget, order=(first,), or_else=tuple(others) if sized else ())


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
    price = price_of(pool.workspace, pool.data, reading, n_neurons)
    return replace(
        candidate,
        n_neurons=n_neurons,
        macs=price.macs,
        n_params=price.n_params,
        n_bytes=price.n_bytes,
        latency_ms=_scaled(candidate, price.macs),
    )


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

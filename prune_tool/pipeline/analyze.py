"""``analyze``: measure how redundant a backbone is for a task, and where cutting it pays."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from prune_tool import defaults
from prune_tool.errors import CacheError, UsageError
from prune_tool.frontier.screen import front, near_front
from prune_tool.pipeline.compare import compare
from prune_tool.pipeline.features import FitData, fit_data
from prune_tool.pipeline.latency import time_readings
from prune_tool.pipeline.measure import measure, readings_of
from prune_tool.pipeline.probing import fit_probe, price_with_probe, probe_candidate, score_probe
from prune_tool.pipeline.runs import Findings, RunRecord, describe_run, findings_key, read_findings, write_run
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Candidate, Cost, Full, MeasuredReading, Search, TimedReadings
from prune_tool.redundancy.logistic import LogisticProbe
from prune_tool.store.atomic import as_json_text
from prune_tool.store.layout import RunFolder, create_free_run, create_run, require_free
from prune_tool.store.root import About
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.taps import HEAD


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Analyzed:
    """What ``analyze`` hands on: the run folder it wrote and what stands in it."""

    run: RunFolder
    record: RunRecord
    analysis: Analysis
    candidates: tuple[Candidate, ...]

    def frontier(self, cost: Cost | None = None) -> list[Candidate]:
        """Candidates that no other matches in accuracy at less cost, cheapest first; by default the request's cost.

        Raises:
            UsageError: the cost is ``latency``, and that was not measured.
        """
        cost = cost or self.record.request.cost
        if cost == "latency" and self.analysis.timed is None:
            raise UsageError(
                asked="the frontier of accuracy against latency",
                found=f"a run whose cost is {self.record.request.cost}, so that no network was timed",
                remedy='Analyze with cost="latency", or ask for another cost',
            )
        return front(self.candidates, cost)


def analyze(workspace: Workspace, *, runs: Path, name: str | None = None) -> Analyzed:
    """Measure every reading of the backbone for the task and write a run folder.

    Args:
        workspace: of the request.
        runs: folder of run folders.
        name: of the new run; by default made of model and data.

    Raises:
        PruneToolError: the model, the data, the cache or the name cannot be used; nothing has been written to ``runs``.
    """
    if name is not None:
        require_free(runs, name)
    record = describe_run(workspace)
    findings = _remembered(workspace, record)
    run = create_free_run(runs, record.default_name) if name is None else create_run(runs, name)
    write_run(run, record, findings)
    return Analyzed(run=run, record=record, analysis=findings.analysis, candidates=findings.candidates)


def _remembered(workspace: Workspace, record: RunRecord) -> Findings:
    """The findings, from the cache where the same was measured before."""
    kept = workspace.cache.findings(findings_key(workspace, record))
    if kept.is_whole():
        return read_findings(kept.path)
    with kept.locked():
        if kept.is_whole():  # another process has measured meanwhile
            return read_findings(kept.path)
        findings = _find(workspace)
        about = About(
            model=record.model,
            input_sizes=tuple(dict.fromkeys(trunk.input_size for trunk in record.trunks)),
            data=record.data,
            n_images=record.n_train + record.n_val,
            taps=workspace.native.about.taps,
        )
        try:
            kept.write(lambda path: path.write_text(as_json_text(findings), encoding="utf-8"), about)
        except CacheError as error:  # what was measured is not lost for that
            workspace.progress.note(f"findings are not remembered: {error}")
    return findings


def _find(workspace: Workspace) -> Findings:
    data = fit_data(workspace)
    started = time.perf_counter()
    full, _ = measure_full(workspace, data)
    measured = _measure_all(workspace, data)
    candidates, timed = probe_near(workspace, data, measured)
    search = Search(
        n_subsets=sum(len(m.sizes) * len(m.n_correct) for m in measured),
        n_readings=len(measured),
        n_timed=0 if timed is None else len(timed.reading_ms),
        n_probed=len(candidates),
        seconds=time.perf_counter() - started,
    )
    comparisons = compare(workspace, data) if workspace.request.compare else ()
    analysis = Analysis(
        full=full,
        delta=defaults.DELTA,
        measured=measured,
        search=search,
        timed=timed,
        comparisons=comparisons,
    )
    return Findings(analysis=analysis, candidates=candidates)


def measure_full(workspace: Workspace, data: FitData) -> tuple[Full, LogisticProbe]:
    """The yardstick and its probe: penultimate layer, all neurons, the backbone's own input size."""
    return workspace.once("full", lambda: _measure_full(workspace, data))


def _measure_full(workspace: Workspace, data: FitData) -> tuple[Full, LogisticProbe]:
    subject = workspace.native
    width = subject.taps[-1].width
    everything = {HEAD: np.arange(width)}
    with workspace.progress.stage("fitting the full backbone's probe"):
        probe = fit_probe(data, subject.trunk, everything)
        val = score_probe(data, subject.trunk, everything, probe)
    price = price_with_probe(workspace, cost_of(subject.captured), everything)
    full = Full(
        input_size=subject.input_size,
        width=width,
        macs=price.macs,
        n_params=price.n_params,
        n_bytes=price.n_bytes,
        val=val,
    )
    return full, probe


def _measure_all(workspace: Workspace, data: FitData) -> tuple[MeasuredReading, ...]:
    """Every reading of every trunk. The own trunk's are measured in full; the others have the strengths found there."""
    work = [(subject, reading) for subject in workspace.subjects for reading in readings_of(subject)]
    request = workspace.request
    fewer = dataclasses.replace(request, n_draws=min(request.n_draws, defaults.N_DRAWS_ELSEWHERE))
    found: list[MeasuredReading] = []
    known: dict[tuple[str, tuple[str, ...]], Sequence[float]] = {}
    with workspace.progress.stage("sweeping random subsets", len(work)) as advance:
        for subject, reading in work:
            same = reading.kind, reading.taps
            if subject.trunk == workspace.native.trunk:
                found.append(measure(subject, reading, data, request))
                known[same] = sorted(set(found[-1].ridge))
            else:
                found.append(measure(subject, reading, data, fewer, known.get(same, defaults.RIDGE_GRID)))
            advance(1)
    return tuple(found)


def probe_near(
    workspace: Workspace, data: FitData, measured: Sequence[MeasuredReading], allowed: frozenset[str] | None = None
) -> tuple[tuple[Candidate, ...], TimedReadings | None]:
    """Logistic probes on the readings near the ridge front, and the latencies of their networks.

    Args:
        workspace: of the run.
        data: training and validation features.
        measured: every reading of the analysis.
        allowed: taps that may be read; ``None`` for all.

    Returns:
        Everything that could ship, on the front or not, and the latencies where they are the request's cost.
    """
    numbers = [i for i, m in enumerate(measured) if allowed is None or allowed.issuperset(m.reading.taps)]
    near = [numbers[i] for i in near_front([measured[i] for i in numbers])]
    timed = None
    if workspace.request.cost == "latency":
        timed = time_readings(workspace, [measured[i].reading for i in near])
    candidates: list[Candidate] = []
    with workspace.progress.stage("fitting logistic probes", len(near)) as advance:
        for place, i in enumerate(near):
            for candidate in _probe_sizes(workspace, data, i, measured[i]):
                whole_ms = None if timed is None else timed.reading_ms[place]
                ms = None if whole_ms is None else whole_ms * min(1, candidate.macs / measured[i].macs)
                candidates.append(dataclasses.replace(candidate, latency_ms=ms))
            advance(1)
    if allowed is None or HEAD in allowed:
        candidates.append(_whole(workspace, data, measured, timed))
    return tuple(candidates), timed


def _whole(
    workspace: Workspace, data: FitData, measured: Sequence[MeasuredReading], timed: TimedReadings | None
) -> Candidate:
    """The full backbone itself, which meets every budget: the search never finds less than a part of it would."""
    full, probe = measure_full(workspace, data)
    trunk = workspace.native.trunk
    place = next(i for i, m in enumerate(measured) if (m.reading.trunk, m.reading.taps) == (trunk, (HEAD,)))
    return Candidate(
        reading=place,
        n_neurons=full.width,
        macs=full.macs,
        n_params=full.n_params,
        n_bytes=full.n_bytes,
        val=full.val,
        strength=probe.strength,
        latency_ms=None if timed is None else timed.full_ms,
    )


def _probe_sizes(workspace: Workspace, data: FitData, number: int, measured: MeasuredReading) -> Iterator[Candidate]:
    """The most accurate size of a reading, and half and a quarter of it with the strength that served there."""
    best = measured.sizes[int(np.argmax(measured.accuracy))]
    candidate = probe_candidate(workspace, data, number, measured.reading, best)
    yield candidate
    for size in sorted({-(-best // 2), -(-best // 4)} - {best}):
        yield probe_candidate(workspace, data, number, measured.reading, size, (candidate.strength,))

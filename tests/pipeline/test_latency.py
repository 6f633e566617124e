"""Latency is measured once a machine, orders the frontier, and can be a limit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prune_tool.deploy.cuts import Cut, time_cuts
from prune_tool.errors import GateError, LimitError, UsageError
from prune_tool.frontier.choice import by_accuracy
from prune_tool.pipeline import latency
from prune_tool.pipeline.analyze import Analyzed, analyze
from prune_tool.pipeline.export import export
from prune_tool.pipeline.latency import graph_of, time_readings
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Candidate, Limit, Limited, Request, Target


def test_the_same_readings_keep_their_latencies(
    workspace: Workspace, analyzed: Analyzed, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = [m.reading for m in analyzed.analysis.measured[:2]]
    first = time_readings(workspace, readings)
    monkeypatch.setattr(latency, "time_cuts", _forbidden)
    assert time_readings(workspace, readings) == first
    with pytest.raises(AssertionError, match="measured again"):
        time_readings(workspace, readings[::-1])  # which no other test of this process asks for


def _forbidden(*_: object) -> None:
    raise AssertionError("measured again")


def test_a_damaged_memory_is_measured_again(workspace: Workspace, analyzed: Analyzed) -> None:
    readings = [analyzed.analysis.measured[0].reading]
    time_readings(workspace, readings)
    for path in (workspace.cache.root / "latencies").glob("*.json"):
        path.write_text('{"full_ms": 1.0, "reading_ms": "no"}')
    assert time_readings(workspace, readings).reading_ms[0] > 0


def test_an_early_cut_takes_less_time_than_the_whole(workspace: Workspace) -> None:
    subject = workspace.native
    graph = graph_of(workspace, subject)
    full = Cut(graph=graph, outputs=("head",))
    early = Cut(graph=graph, outputs=(subject.taps[0].name,))
    full_ms, (early_ms, again_ms) = time_cuts(full, [early, full], Target(), lambda _: None)
    assert early_ms < again_ms
    assert again_ms == pytest.approx(full_ms, rel=0.5)  # the same network beside itself, on a machine that may be busy


def test_candidates_say_what_they_take(analyzed: Analyzed) -> None:
    timed = analyzed.analysis.timed
    assert timed is not None
    assert len(timed.reading_ms) == analyzed.analysis.search.n_timed > 0
    assert all(c.latency_ms is not None and c.latency_ms > 0 for c in analyzed.candidates)
    assert analyzed.analysis.search.n_probed == len(analyzed.candidates)


def test_without_latency_as_cost_nothing_is_timed(request_: Request, tmp_path: Path) -> None:
    workspace = Workspace(replace(request_, cost="macs"))
    analyzed = analyze(workspace, runs=tmp_path)
    assert analyzed.analysis.timed is None
    assert all(c.latency_ms is None for c in analyzed.candidates)
    with pytest.raises(UsageError, match="did not measure"):
        export(workspace, analyzed.run, budget=Budget.parse("0.2"), limits=[Limit.parse("latency", "5ms")])


def test_a_limit_takes_the_most_accurate_within_it(workspace: Workspace, analyzed: Analyzed, tmp_path: Path) -> None:
    run = analyze(workspace, runs=tmp_path).run
    front = analyzed.frontier("macs")
    limit = Limit(kind="macs", most=front[-2].macs)
    exported = export(workspace, run, budget=Budget.parse("0.2"), limits=[limit])
    assert exported.built.candidate.macs <= limit.most
    within = [c.val.n_correct for c in analyzed.candidates if c.macs <= limit.most]
    assert exported.built.candidate.val.n_correct == max(within)


@pytest.mark.parametrize(
    ("kind", "text"), [("latency", "0.0001ms"), ("macs", "0.001k"), ("params", "0.001k"), ("size", "1B")]
)
def test_a_limit_that_nothing_meets_says_which_would_be(analyzed: Analyzed, kind: str, text: str) -> None:
    parse: Callable[..., Limit] = Limit.parse
    with pytest.raises(LimitError) as caught:
        by_accuracy(analyzed.candidates, [parse(kind, text)], str, _exactly)
    assert isinstance(caught.value, GateError)
    proposed = re.search(rf"--max-{kind} (\S+)", caught.value.remedy)
    assert proposed is not None
    assert by_accuracy(analyzed.candidates, [parse(kind, proposed.group(1))], str, _exactly)


def _exactly(candidate: Candidate, kind: Limited) -> tuple[float, float]:
    return candidate.cost(kind)[0], candidate.cost(kind)[0]


@pytest.mark.parametrize("text", ["5", "ms", "-5ms", "0ms", "5 s", "5M", "1e3ms", "infms"])
def test_a_latency_without_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse("latency", text)
    proposed = re.search(r"Try --max-latency (\S+)", caught.value.remedy)
    assert proposed is not None
    assert Limit.parse("latency", proposed.group(1)).most == 5

"""Precision as an axis: files of fewer bits stand beside float32 ones, by what they cost and say themselves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prune_tool import defaults
from prune_tool.deploy.interleaving import Interval
from prune_tool.errors import BudgetError, UsageError
from prune_tool.pipeline import precisions
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.export import export
from prune_tool.pipeline.job import Terms
from prune_tool.pipeline.precisions import Entrant, accuracy_of, require_choice, worth_testing
from prune_tool.pipeline.results import read_results
from prune_tool.pipeline.transform import Transformer
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Candidate, Form, Limit, Request, Score
from prune_tool.report.reproduce import commands
from prune_tool.store.layout import RunFolder

BUDGET = Budget.parse("0.2")
BOTH = Form.parse_each("normalize", "auto")


@pytest.fixture
def run(analyzed: Analyzed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(defaults, "MAX_FILES", 2)
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(analyzed.run.path, copy.path)
    for path in copy.shipped:
        path.unlink(missing_ok=True)
    return copy


def measured(times: float) -> Any:
    """A clock on which fewer bits are ``times`` as fast: the tiny backbone is too small for a real one to tell."""
    return lambda *_: Interval(median=times, low=0.99 * times, high=1.01 * times)


@pytest.mark.parametrize(("times", "precision"), [(4.0, "int8"), (0.5, "fp32")])
def test_files_of_all_precisions_are_tested_down_to_the_one_that_is_fastest_here(
    workspace: Workspace, run: RunFolder, monkeypatch: pytest.MonkeyPatch, times: float, precision: str
) -> None:
    monkeypatch.setattr(precisions, "speedup", measured(times))
    exported = export(workspace, run, budget=BUDGET, form=BOTH)
    assert exported.tested[-1][0].precision == precision, "the cheapest of all files is tested last"
    passed = [candidate for candidate, test in exported.tested if test.passed]
    assert exported.built.candidate == (passed or [exported.built.candidate])[-1]
    assert exported.built.form.precision == exported.built.candidate.precision
    assert exported.full_int8 is not None
    tested = [candidate.cost(workspace.request.cost)[0] for candidate, _ in exported.tested]
    assert tested == sorted(tested, reverse=True)
    assert json.loads(run.certificate.read_text())["precisions"] == ["fp32", "int8"]
    (command,) = [line for line in commands(read_results(run)) if line.startswith("prune-tool export")]
    assert command.endswith("--precision fp32,int8")


def test_where_no_precision_keeps_the_accuracy_the_error_says_what_would(
    workspace: Workspace, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Transformer.fewer_bits

    def refuse(self: Transformer, *asked: Any) -> Any:
        if self.spare == inf:  # the full backbone, which is quantised whatever its accuracy
            return original(self, *asked)
        raise BudgetError(asked="int8", found="too little", remedy="fp32")

    monkeypatch.setattr(Transformer, "fewer_bits", refuse)
    with pytest.raises(BudgetError, match="none of the candidates") as caught:
        export(workspace, run, budget=BUDGET, form=Form.parse_each("normalize", "fp16,int8"))
    assert "--precision auto" in caught.value.remedy
    exported = export(workspace, run, budget=BUDGET, form=BOTH)
    assert exported.built.form.precision == "fp32"


def test_a_file_is_judged_by_what_it_loses_and_not_by_a_few_lucky_images(workspace: Workspace) -> None:
    """On images where float32 is lucky, a file that loses one of them has the candidate's accuracy less that one."""
    labels = workspace.source.labels[workspace.splits.val]
    float32 = np.eye(len(workspace.source.classes), dtype=np.float32)[labels]  # all of them right
    file: Any = SimpleNamespace(
        exported=SimpleNamespace(logits=float32),
        built=SimpleNamespace(val=Score(n_correct=len(labels) - 1, n_images=len(labels))),
    )
    candidate = replace(entrant(1.0, 0.5).candidate, val=Score(n_correct=70, n_images=100))
    assert accuracy_of(workspace, candidate, file) == pytest.approx(0.7 - 1 / len(labels))


def entrant(latency_ms: float, accuracy: float) -> Entrant:
    candidate = Candidate(
        reading=0,
        n_neurons=1,
        macs=1,
        n_params=1,
        n_bytes=1,
        val=Score(n_correct=1, n_images=1),
        strength=1.0,
        latency_ms=latency_ms,
    )
    return Entrant(candidate=candidate, accuracy=accuracy, build=lambda: None)  # type: ignore[arg-type, return-value]


def test_files_that_another_beats_are_not_tested() -> None:
    entrants = [entrant(4.0, 0.9), entrant(2.0, 0.9), entrant(3.0, 0.8), entrant(1.0, 0.7)]
    kept = worth_testing(entrants, Request(cost="latency"))
    assert [(each.candidate.latency_ms, each.accuracy) for each in kept] == [(2.0, 0.9), (1.0, 0.7)]


def test_a_choice_without_a_measure_is_refused() -> None:
    with pytest.raises(UsageError, match="cost is macs"):
        require_choice(BOTH, (), Request(cost="macs"))
    with pytest.raises(UsageError, match="limits"):
        require_choice(BOTH, (Limit.parse("size", "3MB"),), Request(cost="size"))
    require_choice(BOTH, (), Request(cost="size"))
    with pytest.raises(UsageError, match="twice"):
        Form.parse_each("normalize", "int8,int8")
    different = (BOTH[0], replace(BOTH[1], preprocess="graph"))
    with pytest.raises(UsageError, match="more than their precision"):
        Terms(confidence=0.95, taps=None, limits=(), forms=different)

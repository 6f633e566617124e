"""``prune_tool.analyze(model, data)`` and what follows from it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import timm

import prune_tool
from prune_tool.errors import BudgetError, RunError, UsageError
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.runs import read_record
from prune_tool.pipeline.study import Study, _require_known
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Request


@pytest.fixture(scope="module")
def study(workspace: Workspace, analyzed: Analyzed) -> Study:
    return Study(workspace=workspace, analyzed=analyzed)


def test_model_and_data_are_enough(convnet: str, images: Path, home: Path, analyzed: Analyzed) -> None:
    """The same findings as of a workspace with that request, and from the cache."""
    runs = home / "runs-study"
    study = prune_tool.analyze(convnet, images, runs=runs, name="mine", input_sizes=(), n_draws=10)
    assert study.run.path == runs / "mine"
    assert read_record(study.run).request == Request(model=convnet, data=str(images), input_sizes=(), n_draws=10)
    assert study.analysis == analyzed.analysis
    assert study.candidates == analyzed.candidates
    again = prune_tool.analyze(study.workspace, runs=str(runs))
    assert again.workspace is study.workspace
    assert again.candidates == study.candidates


def test_a_module_can_be_given_as_it_is(images: Path, home: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=0)
    study = prune_tool.analyze(network, images, runs=home / "runs-module", input_sizes=(), n_draws=2, cost="macs")
    assert study.record.request.model == "module:ResNet"
    with pytest.raises(UsageError, match="no network was timed") as caught:
        study.frontier(cost="latency")
    assert 'cost="latency"' in caught.value.remedy
    assert study.frontier() == study.frontier(cost="macs")


def test_every_field_of_a_request_is_an_option() -> None:
    _require_known({field.name: None for field in fields(Request) if field.name not in {"model", "data"}})
    with pytest.raises(UsageError, match="no such field") as caught:
        prune_tool.analyze("test_resnet", "nowhere", draws=3)
    assert "n_draws" in caught.value.remedy


def test_a_workspace_says_everything_itself(workspace: Workspace, images: Path) -> None:
    with pytest.raises(UsageError, match="its request says all that"):
        prune_tool.analyze(workspace, images)
    with pytest.raises(UsageError, match="its request says all that"):
        prune_tool.analyze(workspace, cost="macs")


@pytest.mark.parametrize("budget", [0.2, "0.2", "20%", Budget.parse("0.2")])
def test_a_budget_is_what_one_would_write(study: Study, budget: float | str | Budget) -> None:
    chosen = study.choose(budget=budget)
    assert chosen.choice.budget == Budget(kind="relative", loss=0.2)
    assert chosen.reading == study.reading(chosen.candidate)
    floor = chosen.choice.budget.floor(study.analysis.full.val)
    assert chosen.candidate.val.accuracy >= floor


def test_a_budget_without_sense_is_refused(study: Study) -> None:
    with pytest.raises(UsageError, match="not an accuracy loss"):
        study.choose(budget=5)


def test_nothing_of_the_test_images_is_read_to_choose(
    study: Study, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    source = workspace.source
    original = type(source).read
    monkeypatch.setattr(type(source), "read", lambda self, i: (read.append(int(i)), original(self, i))[1])
    study.choose(budget=0.01)
    study.choose(budget="5pp")
    assert not set(read) & set(workspace.splits.test.tolist())


def test_the_file_and_its_certificate_stand_where_one_wants_them(study: Study, tmp_path: Path) -> None:
    chosen = study.choose(budget=0.2)
    exported = chosen.export(tmp_path / "small.onnx")
    assert exported.built.candidate in chosen.choice.order
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "small.certificate.json"}
    assert (tmp_path / "small.onnx").read_bytes() == study.run.model.read_bytes()
    said = json.loads((tmp_path / "small.certificate.json").read_text())
    assert said["model_sha256"] == exported.model_sha256
    assert (tmp_path / "small.onnx").stat().st_ino != study.run.model.stat().st_ino, "a copy of one's own"


@pytest.mark.parametrize("name", ["small", "small.pt"])
def test_a_path_that_names_no_onnx_file_is_refused_before_anything_is_done(
    study: Study, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match=r"does not end in \.onnx") as caught:
        study.choose(budget=0.2).export(tmp_path / name)
    assert str(tmp_path / "small.onnx") in caught.value.remedy
    with pytest.raises(RunError, match="there is no folder"):
        study.choose(budget=0.2).export(tmp_path / "nowhere" / "small.onnx")
    assert not list(tmp_path.iterdir())


def test_a_budget_that_nothing_meets_names_one_that_is_met(study: Study) -> None:
    full = study.analysis.full.val
    weak = tuple(c for c in study.candidates if c.val.accuracy < full.accuracy)
    from dataclasses import replace

    poor = replace(study, analyzed=replace(study.analyzed, candidates=weak))
    with pytest.raises(BudgetError) as caught:
        poor.choose(budget=0)
    proposed = caught.value.remedy.removeprefix("--budget ").removesuffix(" would take it")
    assert poor.choose(budget=proposed).candidate.val.accuracy < full.accuracy

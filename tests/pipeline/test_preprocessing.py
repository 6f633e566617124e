"""Changes to the backbone's preprocessing reach the pixels, the fingerprints, the run folder and the file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from timm.data import create_transform

from prune_tool.errors import RunError, UsageError
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.export import export
from prune_tool.pipeline.runs import read_record
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, PreprocessingChange, Request
from prune_tool.task.backbone import load_backbone
from tests.support import ask

CHANGE = PreprocessingChange(
    mean=(0.5, 0.4, 0.3), std=(0.3, 0.25, 0.2), interpolation="bilinear", crop_pct=0.8, crop_mode="squash"
)
OPTIONS = (
    "--mean", "0.5,0.4,0.3", "--std", "0.3,0.25,0.2", "--interpolation", "bilinear",
    "--crop-pct", "0.8", "--crop-mode", "squash",
)  # fmt: skip


def test_features_are_those_of_timms_transform_with_the_same_changes(request_: Request, convnet: str) -> None:
    workspace = Workspace(replace(request_, preprocessing=CHANGE))
    subject = workspace.native
    transform = create_transform(input_size=(3, 64, 64), is_training=False, **asdict(CHANGE))
    rows = np.array([0, 100, 200])
    normalised = torch.stack([transform(workspace.source.read(int(row))) for row in rows])
    [images] = images_of(workspace.source, rows, subject.backbone.preprocessing)
    with torch.no_grad():
        expected = load_backbone(convnet).module(normalised)
        torch.testing.assert_close(subject.captured(torch.from_numpy(images))[-1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "std", "interpolation", "crop_pct", "crop_mode"])
def test_every_change_makes_features_of_its_own(request_: Request, workspace: Workspace, name: str) -> None:
    one = PreprocessingChange(**{name: asdict(CHANGE)[name]})
    changed = Workspace(replace(request_, preprocessing=one)).native
    assert changed.fingerprint != workspace.native.fingerprint
    assert getattr(changed.backbone.preprocessing, name) == asdict(CHANGE)[name]
    kept = replace(changed.backbone.preprocessing, **{name: getattr(workspace.native.backbone.preprocessing, name)})
    assert kept == workspace.native.backbone.preprocessing


def test_the_run_and_the_file_say_it_and_export_goes_on_with_it(convnet: str, images: Path, home: Path) -> None:
    runs = home / "runs-changed"
    quick = ("--input-size", "32", "--draws", "2", "--runs", runs, "--name", "changed", "-q")
    answer = ask("analyze", convnet, images, *quick, *OPTIONS)
    assert answer.status == 0, answer.err
    said = json.loads((runs / "changed" / "run.json").read_text())
    assert said["request"]["preprocessing"] == json.loads(json.dumps(asdict(CHANGE)))
    assert said["preprocessing"] == {"input_size": 64, **said["request"]["preprocessing"]}
    assert ask("export", runs / "changed", "--budget", "0.5", "-q").status == 0
    metadata = {p.key: p.value for p in onnx.load(runs / "changed" / "model.onnx").metadata_props}
    recipe = json.loads(metadata["prune_tool.preprocessing"])
    assert recipe.pop("input_size") in {32, 64}
    assert recipe == {
        "interpolation": "bilinear",
        "crop_pct": 0.8,
        "crop_mode": "squash",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.3, 0.25, 0.2],
    }


def test_a_run_is_not_gone_on_with_under_another_preprocessing_or_other_splits(
    request_: Request, analyzed: Analyzed
) -> None:
    for changed, found in (
        (replace(request_, preprocessing=CHANGE), "mean, std, interpolation or crop have changed"),
        (replace(request_, seed=1), "the splits have changed"),
    ):
        with pytest.raises(RunError, match=found):
            export(Workspace(changed), analyzed.run, budget=Budget.parse("0.2"))
    assert read_record(analyzed.run).request.preprocessing == PreprocessingChange()


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, 0.5, 1.5)},
        {"mean": (-0.1, 0.5, 0.5)},
        {"std": (0.2, 0.2, 0.0)},
        {"std": (0.2, 0.2, float("nan"))},
        {"crop_pct": 1.01},
        {"crop_mode": "centre"},
        {"interpolation": ""},
    ],
)
def test_a_senseless_value_is_refused_where_it_is_given(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(values)).replace('_', '-')}"):
        PreprocessingChange(**values)  # type: ignore[arg-type]

"""``balanced-accuracy`` from the images to the certificate: what is claimed is what the file does, class by class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from prune_tool.deploy.description import read_metadata
from prune_tool.pipeline.analyze import analyze
from prune_tool.pipeline.export import export
from prune_tool.pipeline.feeding import logits_of
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Request
from tests.support import CLASSES, write_images


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, two of them with a fifth of the images of the first."""
    root = write_images(tmp_path_factory.mktemp("rare") / "images", n_per_class=150)
    for name in CLASSES[1:]:
        for path in sorted((root / name).iterdir())[30:]:
            path.unlink()
    return root


def test_the_certificate_speaks_of_balanced_accuracy_of_the_file(convnet: str, rare: Path, tmp_path: Path) -> None:
    request = Request(model=convnet, data=str(rare), input_sizes=(), n_draws=2, metric="balanced-accuracy")
    workspace = Workspace(request)
    analyzed = analyze(workspace, runs=tmp_path)
    exported = export(workspace, analyzed.run, budget=Budget.parse("0.3"))
    test = exported.certificate.test
    labels = workspace.source.labels[workspace.splits.test]
    preprocessing = workspace.native.backbone.preprocessing
    logits = logits_of(workspace, workspace.splits.test, analyzed.run.model, preprocessing, title="testing")
    predicted = logits.argmax(axis=1)
    expected = balanced_accuracy_score(labels, predicted)
    assert test.kept.accuracy == pytest.approx(expected, abs=1e-12)
    assert test.kept.accuracy != pytest.approx((labels == predicted).mean(), abs=1e-3)  # the two metrics differ here
    assert "balanced accuracy" in exported.sentence
    assert read_metadata(analyzed.run.model)["prune_tool.metric"] == "balanced-accuracy"


def test_rare_classes_are_better_served_than_under_plain_accuracy(convnet: str, rare: Path, tmp_path: Path) -> None:
    request = Request(model=convnet, data=str(rare), input_sizes=(), n_draws=2)
    recalls = []
    for metric in ("accuracy", "balanced-accuracy"):
        workspace = Workspace(replace(request, metric=metric))
        analyzed = analyze(workspace, runs=tmp_path, name=metric)
        exported = export(workspace, analyzed.run, budget=Budget.parse("0.3"))
        recalls.append(np.mean([scores.full.accuracy for scores in exported.fairness.classes[1:]]))
    assert recalls[1] > recalls[0]

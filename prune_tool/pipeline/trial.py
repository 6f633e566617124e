"""The test images, which are read for the first time here: nothing is chosen any more, only tested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prune_tool import defaults
from prune_tool.deploy import preprocess as graphs
from prune_tool.deploy.verify import compare
from prune_tool.frontier.certificate import DropTest, test_balanced_drop, test_drop
from prune_tool.pipeline.build import Built
from prune_tool.pipeline.features import Indices
from prune_tool.pipeline.feeding import logits_of
from prune_tool.pipeline.sequence import Outcome
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Score
from prune_tool.redundancy.held_out import score_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What the full backbone says of the test images.

    Attributes:
        workspace: of the run.
        labels: (n_test,) true classes.
        full: (n_test,) classes that the full backbone's file gives.
        confidence: one-sided, of every test.
    """

    workspace: Workspace
    labels: Indices
    full: Indices
    confidence: float

    def drop(self, budget: Budget, kept: Indices) -> DropTest:
        """Test predicted classes ``kept (n_test,)`` against the full backbone's."""
        correct = self.full == self.labels, kept == self.labels
        if self.workspace.request.metric == "accuracy":
            return test_drop(*correct, budget, 1 - self.confidence)
        return test_balanced_drop(self.labels, *correct, budget, 1 - self.confidence)

    def score(self, full: Path, title: str) -> Score:
        """Of another file of the full backbone."""
        predicted = predict_full(self.workspace, full, title)
        return score_of(self.labels, predicted, self.workspace.request.metric)

    def agreed(self, outcome: Outcome) -> Built:
        """The record of what ships, with its agreement with timm's transform where it resizes images by itself.

        Raises:
            VerificationError: fewer images keep their first class than must.
        """
        shipped = outcome.shipped
        built = shipped.built
        if built.agreement is None:
            return built
        preprocessing = self.workspace.subject(built.reading.trunk).backbone.preprocessing
        title = "comparing with timm's transform"
        rows = self.workspace.splits.test
        pillow = logits_of(self.workspace, rows, shipped.pillow.path, preprocessing, title=title)
        stage = compare(graphs.STAGE, pillow, outcome.logits, gate="top-1", tolerance=defaults.MIN_AGREEMENT)
        same = Score(n_correct=stage.n_top1_agree, n_images=stage.n_images)
        return replace(built, agreement=replace(built.agreement, test=same))


def open_trial(workspace: Workspace, full: Path, confidence: float) -> Trial:
    """Read the test images with the file of the full backbone."""
    return Trial(
        workspace=workspace,
        labels=workspace.source.labels[workspace.splits.test],
        full=predict_full(workspace, full, "testing the full backbone"),
        confidence=confidence,
    )


def predict_full(workspace: Workspace, path: Path, title: str) -> Indices:
    """Classes (n_test,) that a file of the full backbone gives the test images."""
    preprocessing = workspace.native.backbone.preprocessing
    logits = logits_of(workspace, workspace.splits.test, path, preprocessing, title=title)
    return np.asarray(logits.argmax(axis=1))

"""Training images that take turns with the validation images: who judges what, and what comes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prune_tool import defaults
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.features import FitData, fit_data
from prune_tool.pipeline.flattery import flattery
from prune_tool.pipeline.probing import fit_probe, score_probe
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Request
from prune_tool.redundancy.logistic import fit_logistic
from prune_tool.surgery.taps import HEAD

SUBSET = {HEAD: np.arange(12)}


@pytest.fixture
def data(workspace: Workspace, analyzed: Analyzed) -> FitData:
    return fit_data(workspace)


def test_every_image_that_chooses_judges_once_what_was_fitted_to_the_others(data: FitData) -> None:
    judging = [data.val, *(turn.val for turn in data.turns)]
    assert sorted(np.concatenate(judging).tolist()) == list(range(len(data.labels)))
    for turn in data.turns:
        assert sorted([*turn.fit, *turn.val]) == list(range(len(data.labels)))


def test_a_score_counts_every_turn(workspace: Workspace, data: FitData) -> None:
    """Against fits from scratch, turn by turn."""
    trunk = workspace.native.trunk
    probe = fit_probe(data, trunk, SUBSET)
    n_correct = 0
    for fit, val in [(data.train, data.val), *((turn.fit, turn.val) for turn in data.turns)]:
        train = data.features.columns(trunk, SUBSET, fit)
        own = fit_logistic(train, data.labels[fit], data.n_classes, probe.strength)
        n_correct += (own.predict(data.features.columns(trunk, SUBSET, val)) == data.labels[val]).sum()
    score = score_probe(data, trunk, SUBSET, probe)
    assert score.n_images == len(data.labels)
    assert abs(score.n_correct - n_correct) <= 1  # one image may lie on the boundary to rounding
    assert score_probe(replace(data, turns=()), trunk, SUBSET, probe).n_images == len(data.val)


def test_flattery_is_what_the_validation_images_say_less_what_all_say(workspace: Workspace, data: FitData) -> None:
    """Against numpy's solver, turn by turn."""
    trunk = workspace.native.trunk
    X = data.features.columns(trunk, SUBSET, np.arange(len(data.labels))).astype(np.float64)
    Y = np.eye(data.n_classes)[data.labels]

    def n_correct(fit: np.ndarray, val: np.ndarray) -> int:
        spread, prior = X[fit].std(axis=0), Y[fit].mean(axis=0)
        scaled = (X - X[fit].mean(axis=0)) / np.where(spread > 0, spread, 1)
        gram = scaled[fit].T @ scaled[fit] + defaults.FLATTERY_RIDGE * len(fit) * np.eye(X.shape[1])
        W = np.linalg.solve(gram, scaled[fit].T @ (Y[fit] - prior))
        return int(((prior + scaled[val] @ W).argmax(axis=1) == data.labels[val]).sum())

    on_val = n_correct(data.train, data.val)
    on_all = on_val + sum(n_correct(turn.fit, turn.val) for turn in data.turns)
    expected = on_val / len(data.val) - on_all / len(data.labels)
    assert flattery(data, trunk, SUBSET, "cpu") == pytest.approx(expected, abs=1 / len(data.val))
    assert abs(expected) > 1 / len(data.val)  # or nothing would be shown
    assert flattery(replace(data, turns=()), trunk, SUBSET, "cpu") == 0


def test_images_that_narrowed_trunks_were_made_on_judge_nobody(request_: Request) -> None:
    narrowed = Workspace(replace(request_, narrow=(0.9,), n_calibration=30))
    data = fit_data(narrowed)
    assert len(narrowed.calibrated) == 30
    indices = np.union1d(narrowed.splits.train, narrowed.splits.val)
    judging = indices[np.concatenate([turn.val for turn in data.turns])]
    assert not np.isin(judging, narrowed.calibrated).any()
    assert len(judging) == len(narrowed.splits.train) - 30
    assert Workspace(request_).calibrated.size == 0
    healed = Workspace(replace(request_, narrow=(0.9,), n_calibration=30, heal=1))
    assert healed.calibrated.tolist() == healed.splits.train.tolist()


def test_nobody_takes_turns_where_memory_is_short(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "FIT_BYTES", 8 * defaults.MAX_POOL * 60)
    assert fit_data(Workspace(request_)).turns == ()

"""Healing lowers what narrowing lost, never adds to it, and is remembered with the narrowed weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx

from prune_tool import defaults
from prune_tool.errors import DataError
from prune_tool.pipeline.cutter import Plan
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.heal import Healed, heal
from prune_tool.pipeline.narrow import Narrower
from prune_tool.pipeline.progress import Silent
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Request, Trunk
from tests.support import ask

Pair = tuple[fx.GraphModule, fx.GraphModule]


@pytest.fixture(scope="module")
def pair(workspace: Workspace) -> Pair:
    """A network and itself with half of its hidden neurons dropped, none folded."""
    captured = workspace.native.captured
    rows = workspace.splits.train[:24]
    images = images_of(workspace.source, rows, workspace.native.backbone.preprocessing)
    return captured, Narrower(captured, images).narrow(Plan(share=0.6, fold=False, allocation="uniform"))[1]


def healed(workspace: Workspace, pair: Pair, n_epochs: int = 2, n_images: int | None = None) -> Healed:
    read = partial(images_of, workspace.source, preprocessing=workspace.native.backbone.preprocessing)
    rows = workspace.splits.train[:n_images]
    return heal(*pair, read, rows, n_epochs=n_epochs, seed=0, progress=Silent())


def test_it_lowers_the_loss_on_images_that_it_does_not_train_on(workspace: Workspace, pair: Pair) -> None:
    kept = {name: weight.clone() for name, weight in pair[1].named_parameters()}
    found = healed(workspace, pair)
    assert 0 < found.after < 0.95 * found.before
    assert found.weights.keys() == kept.keys()
    for name, weight in pair[1].named_parameters():
        torch.testing.assert_close(weight, kept[name], rtol=0, atol=0)
    again = healed(workspace, pair)
    assert again.after == found.after


def test_weights_that_are_no_better_are_not_taken(
    workspace: Workspace, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "HEAL_RATE", 10.0)
    found = healed(workspace, pair, n_epochs=1)
    assert found.after == found.before
    for name, weight in pair[1].named_parameters():
        torch.testing.assert_close(found.weights[name], weight.detach(), rtol=0, atol=0)


def test_steps_are_relative_to_what_they_change(workspace: Workspace, pair: Pair) -> None:
    """Adam's first step moves what has a gradient by the rate; branches whose last norm starts at zero have none."""
    found = healed(workspace, pair, n_epochs=1, n_images=16)
    assert found.after < found.before
    steps = []
    for name, weight in pair[1].named_parameters():
        if weight.ndim > 1:
            size = float(weight.detach().square().mean().sqrt())
            steps.append(float((found.weights[name] - weight.detach()).abs().max()) / size)
    moved = [step for step in steps if step > 0]
    assert len(moved) > 3
    assert moved == pytest.approx([defaults.HEAL_RATE] * len(moved), rel=0.02)


def test_held_out_images_do_not_train(workspace: Workspace, pair: Pair) -> None:
    read: list[list[int]] = []

    def watched(rows: np.ndarray) -> Iterator[np.ndarray]:
        read.append(rows.tolist())
        yield from images_of(workspace.source, rows, workspace.native.backbone.preprocessing)

    heal(*pair, watched, workspace.splits.train, n_epochs=2, seed=0, progress=Silent())
    held_out, *epochs = map(set, read)
    assert len(held_out) == len(workspace.splits.train) // 8
    assert all(not epoch & held_out and epoch | held_out == set(workspace.splits.train.tolist()) for epoch in epochs)


def test_too_few_images_are_refused(workspace: Workspace, pair: Pair) -> None:
    with pytest.raises(DataError, match="10 training images"):
        healed(workspace, pair, n_images=10)


def test_a_healed_trunk_is_remembered_and_another_than_without(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(request_, narrow=(0.6,), n_calibration=24, heal=1)
    trunk = Trunk(input_size=64, narrow=0.6)
    first = Workspace(request).subject(trunk)
    plain = Workspace(replace(request, heal=0)).subject(trunk)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert first.trunk_fingerprint != plain.trunk_fingerprint
    assert any(not torch.equal(a, b) for a, b in zip(first.captured(images), plain.captured(images), strict=True))

    def again(*_: object, **__: object) -> None:
        raise AssertionError("healed again")

    monkeypatch.setattr("prune_tool.pipeline.narrowed.heal", again)
    for found, wanted in zip(Workspace(request).subject(trunk).captured(images), first.captured(images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_healing_nothing_is_an_error(images: Path, convnet: str) -> None:
    asked = ask("analyze", convnet, images, "--heal", "1")
    assert asked.status == 2
    assert "--narrow auto" in asked.err

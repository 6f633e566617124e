"""The same numbers on a GPU as on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prune_tool.pipeline.engines.runners import AMP_TOLERANCE
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Request

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_features_agree(
    request_: Request, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = workspace.splits.val
    names = [tap.name for tap in workspace.native.taps]
    on_cpu = extract(workspace, [workspace.native], rows)[0].read(names)
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path_factory.mktemp("cuda-cache")))
    other = Workspace(replace(request_, device="cuda"))
    on_gpu = extract(other, [other.native], rows)[0].read(names)
    for name in names:
        scale = np.abs(on_cpu[name]).max()
        np.testing.assert_allclose(on_gpu[name] / scale, on_cpu[name] / scale, atol=1e-4)


def test_half_precision_and_worker_processes_agree_with_float32(
    request_: Request, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = workspace.splits.train
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path_factory.mktemp("amp-cache")))
    found = {}
    for amp, workers in ((False, 0), (False, 2), (True, 2)):
        made = Workspace(replace(request_, device="cuda:0", amp=amp, workers=workers))
        [entry] = extract(made, [made.native], rows)
        found[amp, workers] = entry.read(["head"])["head"]
        for path in entry.folder.glob("*.safetensors"):
            path.unlink()
    np.testing.assert_array_equal(found[False, 0], found[False, 2])
    exact, rounded = found[False, 0], found[True, 2]
    assert 0 < np.linalg.norm(exact - rounded) / np.linalg.norm(exact - exact.mean(0)) < AMP_TOLERANCE

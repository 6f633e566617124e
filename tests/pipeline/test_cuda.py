"""The same numbers on a GPU as on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

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

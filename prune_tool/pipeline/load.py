"""``load``: the shipped network as a PyTorch module."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from prune_tool.store.layout import open_run


def load(run: str | Path) -> nn.Module:
    """Open the network of an exported run: images (b, 3, h, w) float32 in [0, 1] -> logits (b, classes).

    The same file opens without this package through ``torch.export.load("model.pt2").module()``.

    Raises:
        RunError: no such run, or it has not been exported.
    """
    folder = open_run(Path(run))
    folder.require(folder.program, asked=f"load the network of {folder.path}")
    return torch.export.load(folder.program).module()

"""What a user would otherwise take: Torch-Pruning, with and without training, and ONNX Runtime's own static int8."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, quantize_static
from torch import Tensor, nn

from prune_tool import Workspace
from prune_tool.deploy.quantise import CalibrationImages
from prune_tool.pipeline.decode import images_of
from prune_tool.redundancy.logistic import LogisticProbe

N_TAYLOR = 64
"""Training images whose gradients the Taylor criterion sums."""

IMPORTANCES = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "Taylor": tp.importance.GroupTaylorImportance,
    "random": tp.importance.RandomImportance,
}
LEARNING_RATE = 0.01
ROUND_TO = 8


class Classifier(nn.Module):
    """A backbone and its probe, as Torch-Pruning and SGD take them: normalised images in, logits out."""

    def __init__(self, backbone: nn.Module, probe: LogisticProbe) -> None:
        super().__init__()
        self.backbone = deepcopy(backbone).requires_grad_(requires_grad=True)
        self.head = nn.Linear(probe.weight.shape[1], probe.weight.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(probe.weight))
            self.head.bias.copy_(torch.tensor(probe.bias))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes) of (b, 3, h, w)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def pruned(workspace: Workspace, probe: LogisticProbe, ratio: float, importance: str, *, is_global: bool) -> Classifier:
    """One-shot, as in Torch-Pruning's README: ``ratio`` of the channels of every layer, or of all layers together."""
    model = Classifier(workspace.native.backbone.module, probe).eval()
    size = workspace.native.input_size
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(1, 3, size, size),
        importance=IMPORTANCES[importance](),
        pruning_ratio=ratio,
        global_pruning=is_global,
        max_pruning_ratio=0.9,
        ignored_layers=[model.head],
        round_to=ROUND_TO,
    )
    if importance == "Taylor":
        rows = np.random.default_rng(0).permutation(workspace.splits.train)[:N_TAYLOR]
        for images, labels in batches(workspace, rows):
            nn.functional.cross_entropy(model(images), labels).backward()
    pruner.step()
    model.zero_grad()
    return model


def fine_tuned(workspace: Workspace, model: Classifier, n_epochs: int) -> Classifier:
    """SGD with momentum over all weights, the rate falling by a cosine, each image as it is or mirrored."""
    train, rng = workspace.splits.train, np.random.default_rng(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_epochs)
    model.train()
    for _ in range(n_epochs):
        for images, labels in batches(workspace, rng.permutation(train)):
            mirrored = images.flip(3) if rng.random() < 0.5 else images
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(mirrored), labels).backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def batches(workspace: Workspace, rows: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images and labels, 16 at a time."""
    preprocessing = workspace.native.backbone.preprocessing
    mean, std = (torch.tensor(value)[:, None, None] for value in (preprocessing.mean, preprocessing.std))
    labels, start = torch.from_numpy(workspace.source.labels[rows]), 0
    for images in images_of(workspace.source, rows, preprocessing):
        yield (torch.from_numpy(images) - mean) / std, labels[start : start + len(images)]
        start += len(images)


def static_int8(workspace: Workspace, float32: Path, target: Path, n_images: int) -> None:
    """As ONNX Runtime documents it: QDQ, one scale a channel, ranges of as many images as prune-tool takes."""
    rows = np.random.default_rng(0).permutation(workspace.splits.train)[:n_images]
    images = images_of(workspace.source, np.sort(rows), workspace.native.backbone.preprocessing)
    quantize_static(float32, target, CalibrationImages(images), quant_format=QuantFormat.QDQ, per_channel=True)

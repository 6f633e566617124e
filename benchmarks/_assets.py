"""The backbones and labelled images of ``PRUNE_TOOL_ASSETS``, and the neurons that the one has for the other."""

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm

from prune_tool import Request, Workspace, from_module
from prune_tool.pipeline.extract import extract
from prune_tool.records import SPLITS
from prune_tool.redundancy.checks import Features, Int64
from prune_tool.surgery.taps import HEAD
from prune_tool.task.backbone import Backbone

ASSETS = Path(os.environ.get("PRUNE_TOOL_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))

MODELS = {
    "resnet50_v1": "ResNet-50 v1 (Keras weights)",
    "tf_efficientnet_lite0": "EfficientNet-Lite0",
    "vit_small_patch14_dinov2": "ViT-S/14 tuned for saliency",
}
DATA = {"cifar10": "CIFAR-10", "flowers5": "five flowers"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neurons:
    """Penultimate neurons by split, ``(n, d)`` float32, and their labels ``(n,)``."""

    train: Features
    train_labels: Int64
    val: Features
    val_labels: Int64
    test: Features
    test_labels: Int64
    n_classes: int

    @property
    def width(self) -> int:
        """Neurons of the layer."""
        return int(self.train.shape[1])


@contextmanager
def images(data: str) -> Iterator[Path]:
    """Where the images lie; an archive is unpacked for as long as they are needed."""
    file = ASSETS / "images" / f"{data}.npz"
    if file.exists():
        yield file
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(file.with_suffix(".zip")) as archive:
        archive.extractall(folder)  # ours; zipfile keeps every member inside the folder
        yield Path(folder)


def penultimate(model: str, data: str, n_images: int | None, device: str) -> Neurons:
    """Neurons of the penultimate layer, by way of prune-tool's own pipeline and cache.

    Args:
        model: a folder of ``backbones``.
        data: a file of ``images``, without its ending.
        n_images: how many images to use, in the proportions of splits and classes; ``None`` for all.
        device: where to extract.
    """
    with images(data) as path:
        named, backbone = source_of(model)
        request = Request(model=named, data=str(path), input_sizes=(), taps=(HEAD,), device=device)
        workspace = Workspace(request, backbone=backbone)
        labels, splits = workspace.source.labels, workspace.splits
        parts = [getattr(splits, split) for split in SPLITS]
        share = 1.0 if n_images is None else min(1.0, n_images / sum(map(len, parts)))
        parts = [some(part, labels, round(share * len(part))) for part in parts]
        [entry] = extract(workspace, [workspace.native], np.concatenate(parts))
        features = entry.read([HEAD])[HEAD]
        train, val, test = np.split(features, np.cumsum([len(part) for part in parts])[:-1])
        return Neurons(
            train=train,
            train_labels=labels[parts[0]],
            val=val,
            val_labels=labels[parts[1]],
            test=test,
            test_labels=labels[parts[2]],
            n_classes=len(workspace.source.classes),
        )


def some(indices: Int64, labels: Int64, n: int) -> Int64:
    """``n`` of ``indices``, spread evenly over them once they are in the order of their classes."""
    by_class = indices[np.argsort(labels[indices], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(by_class) - 1, n).astype(np.int64)])


def source_of(model: str) -> tuple[str | None, Backbone | None]:
    """A folder of ``backbones`` as ``Request.model`` names it, or the module itself where timm's would not be that."""
    source = f"local-dir:{ASSETS / 'backbones' / model}"
    return (None, with_v1_strides(source)) if model == "resnet50_v1" else (source, None)


def with_v1_strides(name: str) -> Backbone:
    """The ResNet-50 that these weights are of: it strides in a block's first convolution, timm's in the second."""
    model = timm.create_model(name, pretrained=True)
    model.reset_classifier(0)
    for layer in (model.layer2, model.layer3, model.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return from_module(model, name="resnet50_v1")

"""Backbones at small input sizes and some images of a task: what narrowing is measured on, apart from any search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from _assets import some, source_of
from _pairs import Pair, task
from numpy.typing import NDArray

from prune_tool import Request, Workspace
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.subject import Subject
from prune_tool.records import Trunk
from prune_tool.redundancy.checks import Int64
from prune_tool.surgery.taps import HEAD

N_TRAIN, N_VAL, N_CALIBRATION = 2000, 1000, 512
BATCH_SIZE = 32
Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class SmallTask:
    """A backbone at one input size, and images (n, 3, h, w) in [0, 1] with labels (n,)."""

    subject: Subject
    train: Images
    train_labels: Int64
    val: Images
    val_labels: Int64
    n_classes: int

    @property
    def calibration(self) -> list[Images]:
        """Some of the training images, in batches."""
        n = min(N_CALIBRATION, len(self.train))
        return batches(self.train[some(np.arange(len(self.train)), self.train_labels, n)])


def open_small(name: str, *, quick: bool) -> SmallTask:
    """Load and capture what is named MODEL/DATA/SIZE; the head is the only tap. ``quick``: a tenth of the images."""
    model, data, size = name.split("/")
    n_train, n_val = (n // 10 if quick else n for n in (N_TRAIN, N_VAL))
    with task(Pair(model=model, data=data)) as place:
        source, backbone = source_of(model)
        request = Request(model=source, data=place, input_sizes=(int(size),), taps=(HEAD,))
        workspace = Workspace(request, backbone=backbone)
        subject = workspace.subject(Trunk(input_size=int(size)))
        labels, splits = workspace.source.labels, workspace.splits
        judges = splits.val if len(splits.val) >= n_val else np.union1d(splits.val, splits.test)
        train, val = (some(rows, labels, min(n, len(rows))) for rows, n in ((splits.train, n_train), (judges, n_val)))
        images = [
            np.concatenate(list(images_of(workspace.source, rows, subject.backbone.preprocessing)))
            for rows in (train, val)
        ]
    return SmallTask(
        subject=subject,
        train=images[0],
        train_labels=labels[train],
        val=images[1],
        val_labels=labels[val],
        n_classes=len(workspace.source.classes),
    )


def batches(images: Images) -> list[Images]:
    """The images a few at a time."""
    return [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]

"""Images as a written file takes them, and what the file says of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.deploy.session import open_session
from prune_tool.deploy.verify import Logits, predict
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.threads import n_threads
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Preprocess
from prune_tool.task.backbone import Preprocessing
from prune_tool.task.images import ImageSource

Rows = NDArray[np.int64]

MAX_PIXELS = 2**24
"""Pixels in one batch of images as they are: a file that resizes holds each as twelve bytes, several times over."""

MAX_SIDE = 1024
"""Height and width to which ``same_size_images`` cuts a photograph, so that a batch of them fits in memory."""


def feed(
    workspace: Workspace, rows: Rows, preprocessing: Preprocessing, preprocess: Preprocess
) -> Iterator[NDArray[Any]]:
    """Batches of the images at ``rows``, in order, as a file of that form takes them.

    Yields:
        ``normalize``: float32 (b, 3, side, side) in [0, 1], by timm's transform; ``none``: the same less mean, over
        std; ``graph``: uint8 (b, height, width, 3) as they are, neighbours of one size together.
    """
    if preprocess == "graph":
        yield from _as_they_are(workspace.source, rows)
        return
    mean, std = (
        np.array(levels, dtype=np.float32)[:, None, None] for levels in (preprocessing.mean, preprocessing.std)
    )
    for images in images_of(workspace.source, rows, preprocessing):
        yield (images - mean) / std if preprocess == "none" else images


def _as_they_are(source: ImageSource, rows: Rows) -> Iterator[NDArray[np.uint8]]:
    size = defaults.BATCH_SIZE["cpu"]
    with ThreadPoolExecutor(n_threads()) as pool:
        for start in range(0, len(rows), size):
            images = pool.map(lambda row: np.asarray(source.read(int(row))), rows[start : start + size])
            for (height, width, _), alike in groupby(images, key=np.shape):
                together = list(alike)
                n = max(1, MAX_PIXELS // (height * width))
                for first in range(0, len(together), n):
                    yield np.stack(together[first : first + n])


def logits_of(
    workspace: Workspace,
    rows: Rows,
    model: Path,
    preprocessing: Preprocessing,
    *,
    preprocess: Preprocess = "normalize",
    title: str,
) -> Logits:
    """Logits (n, classes) float32 that a written file gives the images at ``rows``, in ONNX Runtime by itself."""
    session = open_session(model, n_threads=n_threads(), spin=False)
    with workspace.progress.stage(title, len(rows)) as advance:

        def batches() -> Iterator[NDArray[Any]]:
            for images in feed(workspace, rows, preprocessing, preprocess):
                yield images
                advance(len(images))

        return predict(session, batches())


def same_size_images(workspace: Workspace, row: int, n_images: int) -> NDArray[np.uint8]:
    """One image, as it is, shifted by 0, 1, ... columns: different images (n_images, height, width, 3) of one size.

    Photographs of one size are not to be had everywhere, and a file takes one size a call.
    """
    image = np.asarray(workspace.source.read(row))[:MAX_SIDE, :MAX_SIDE]
    return np.stack([np.roll(image, shift, axis=1) for shift in range(n_images)])

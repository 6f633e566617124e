"""From files to batches of pixels: decoded in threads while the batch before is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from prune_tool import defaults
from prune_tool.pipeline.workspace import n_threads
from prune_tool.task.backbone import Preprocessing, pixel_transform
from prune_tool.task.images import ImageSource

Images = NDArray[np.float32]
"""(b, 3, h, w) in [0, 1], resized and cropped: what every network here takes."""
Transform = Callable[[Image], NDArray[np.uint8]]
"""From an image to (h, w, 3) pixels, resized and cropped."""

N_AHEAD = 2
"""Batches being decoded while one is used: enough to hide a slow image, few enough to bound memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images to be decoded together.

    Attributes:
        rows: positions in the source.
        wanted: keys of the transforms to apply.
    """

    rows: NDArray[np.int64]
    wanted: tuple[int, ...]


def decode(
    source: ImageSource, batches: Sequence[Batch], transforms: Mapping[int, Transform]
) -> Iterator[tuple[Batch, dict[int, Images]]]:
    """Decode each image once and transform it for every key its batch wants.

    Yields:
        Each batch, in order, with its images by key.

    Raises:
        BadImageError: an image cannot be decoded.
    """

    def load(row: int, wanted: tuple[int, ...]) -> dict[int, Images]:
        image = source.read(row)
        return {key: _planes(transforms[key](image)) for key in wanted}

    def finish(batch: Batch, futures: list[Future[dict[int, Images]]]) -> tuple[Batch, dict[int, Images]]:
        images = [future.result() for future in futures]
        return batch, {key: np.stack([image[key] for image in images]) for key in batch.wanted}

    pool = ThreadPoolExecutor(n_threads())
    pending: deque[tuple[Batch, list[Future[dict[int, Images]]]]] = deque()
    try:
        for batch in batches:
            pending.append((batch, [pool.submit(load, int(row), batch.wanted) for row in batch.rows]))
            if len(pending) > N_AHEAD:
                yield finish(*pending.popleft())
        while pending:
            yield finish(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def images_of(source: ImageSource, rows: NDArray[np.int64], preprocessing: Preprocessing) -> Iterator[Images]:
    """Batches of the images at ``rows``, for one network on the CPU."""
    size = defaults.BATCH_SIZE["cpu"]
    batches = [Batch(rows=rows[start : start + size], wanted=(0,)) for start in range(0, len(rows), size)]
    for _, images in decode(source, batches, {0: pixel_transform(preprocessing)}):
        yield images[0]


def _planes(pixels: NDArray[np.uint8]) -> Images:
    """(h, w, 3) of 0 to 255 -> (3, h, w) float32 in [0, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)

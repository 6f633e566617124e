"""From files to batches of pixels, decoded ahead while the batches before are being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prune_tool import defaults
from prune_tool.pipeline.processes import map_in_processes
from prune_tool.pipeline.threads import n_threads
from prune_tool.task.backbone import Preprocessing, pixel_transform
from prune_tool.task.images import ImageSource

Images = NDArray[np.float32]
"""(b, 3, h, w) in [0, 1], resized and cropped: what every network here takes."""
Pixels = dict[int, Tensor]
"""By the key of a preprocessing, (b, h, w, 3) uint8: a quarter of ``Images`` where they cross a process or a bus."""

N_AHEAD = 2
"""Batches decoded beyond those in hand: enough to hide a slow image, few enough to bound memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images to be decoded together.

    Attributes:
        rows: positions in the source.
        wanted: keys of the preprocessings to apply.
    """

    rows: NDArray[np.int64]
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads each image once and prepares it for every network that wants it. Travels to other processes."""

    source: ImageSource
    preprocessings: Mapping[int, Preprocessing]

    def __call__(self, batch: Batch) -> Pixels:
        """Decode a batch. Raises ``BadImageError``."""
        pixels: dict[int, list[NDArray[np.uint8]]] = {key: [] for key in batch.wanted}
        for row in batch.rows:
            image = self.source.read(int(row), keep_grey=True)
            for key in batch.wanted:
                pixels[key].append(_transform(self.preprocessings[key])(image))
        return {key: torch.from_numpy(np.stack(images)) for key, images in pixels.items()}


_transform = cache(pixel_transform)


def decode(
    decoder: Decoder, batches: Iterable[Batch], *, n_threads: int, n_workers: int = 0, pinned: bool = False
) -> Generator[Pixels, None, None]:
    """Decode batches ahead.

    Args:
        decoder: what to do with each.
        batches: read only as far as needed, at most ``n_threads + N_AHEAD`` (or two a worker) before the one in use.
        n_threads: threads of this process that decode, where no workers do.
        n_workers: worker processes that decode.
        pinned: put what workers decode into page-locked memory, from which a GPU copies by itself.

    Yields:
        The pixels of each batch, in order.

    Raises:
        BadImageError: an image cannot be decoded.
        WorkerError: a worker process died.
    """
    if n_workers:
        return map_in_processes(decoder, batches, n_workers, pinned=pinned)
    return _in_threads(decoder, batches, n_threads)


def _in_threads(decoder: Decoder, batches: Iterable[Batch], n_threads: int) -> Generator[Pixels, None, None]:
    coming = iter(batches)
    pool = ThreadPoolExecutor(n_threads)
    pending: deque[Future[Pixels]] = deque()
    try:
        pending.extend(pool.submit(decoder, batch) for batch in islice(coming, n_threads + N_AHEAD))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(decoder, batch) for batch in islice(coming, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def images_of(source: ImageSource, rows: NDArray[np.int64], preprocessing: Preprocessing) -> Iterator[Images]:
    """Batches of the images at ``rows``, for one network on the CPU."""
    size = defaults.BATCH_SIZE["cpu"]
    batches = (Batch(rows=rows[start : start + size], wanted=(0,)) for start in range(0, len(rows), size))
    for pixels in decode(Decoder(source, {0: preprocessing}), batches, n_threads=n_threads()):
        yield (pixels[0].permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255).numpy()

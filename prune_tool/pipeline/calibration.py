"""Calibration images on their way to moments: how many, at which places, in one pass or on a walk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from prune_tool import defaults
from prune_tool.errors import DataError
from prune_tool.pipeline.lockstep import Lockstep, Values, bytes_per_image
from prune_tool.pipeline.progress import Progress
from prune_tool.pipeline.reader import Input, Reader
from prune_tool.redundancy.joint import JointAccumulator, JointMoments
from prune_tool.redundancy.subsets import draw_interleaved

Halves = tuple[JointMoments, JointMoments]
"""Moments of every other image, and of those between: what folds are chosen with and judged by."""

Moments = tuple[Halves, ...]
"""Of every input of a reader."""


def calibration_batches(
    captured: fx.GraphModule,
    images: Iterable[NDArray[np.float32]],
    readers: Sequence[Reader],
    progress: Progress,
) -> list[Tensor]:
    """Images (b, 3, h, w) on the network's device, as many as a lockstep walk may hold the activations of.

    Raises:
        DataError: there are fewer than two.
    """
    needed = bytes_per_image(captured.graph, [reader.node for reader in readers])
    n_most = max(2, defaults.CALIBRATION_BYTES // needed)
    device = next(captured.parameters()).device
    batches: list[Tensor] = []
    n_images = 0
    for batch in images:
        n_fit = n_most - n_images
        if len(batch) > n_fit:
            progress.note(
                f"calibrating on {n_most} images: each holds {needed / 2**20:.1f} MiB of activations, "
                f"and {defaults.CALIBRATION_BYTES / 2**30:g} GiB is the bound"
            )
        if n_fit > 0:
            batches.append(torch.from_numpy(np.ascontiguousarray(batch[:n_fit])).to(device))
            n_images += len(batches[-1])
        if len(batch) > n_fit:
            break
    if n_images < 2:
        found = f"{n_images or 'no'} image{'s' * (n_images != 1)}"
        raise DataError(asked="calibrate hidden widths", found=found, remedy="Give at least two images")
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """At which places of each image a layer's inputs become rows: all of them, or as many as make enough rows.

    Attributes:
        n_images: over which the rows are spread.
        seed: of the places; every batch has the next ones of one permutation.
    """

    n_images: int
    seed: int

    def rows(self, values: Values, read: Input, place: int, batch: int) -> tuple[Tensor, Tensor | None]:
        """Rows ``x (b, places, w)`` of a batch and, where the narrowed network differs, ``x_hat`` alike; on the CPU.

        Args:
            values: the live values of the batch, the one that is read among them.
            read: the input.
            place: of the reader in its network: each has places of its own.
            batch: number of the batch.
        """
        n = min(read.n_places, -(-defaults.CALIBRATION_ROWS // self.n_images))
        order = draw_interleaved(read.n_places, 1, self.seed, place)
        at = torch.from_numpy(order.take(range(batch * n, (batch + 1) * n), mode="wrap"))
        twin = values[read.input]
        return read.rows(twin.original, at), read.rows(twin.narrowed, at) if twin.differs else None

    def moments(self, batches: Iterable[Values], reader: Reader, place: int) -> Moments:
        """Moments of the rows of all batches. Raises ``DataError`` where there are none, or values not finite."""
        gathered = _Gathered(self, reader, place)
        for number, values in enumerate(batches):
            gathered.update(values, number)
        return gathered.freeze()


class _Gathered:
    """Gathers the moments of all that a reader reads."""

    def __init__(self, sampling: Sampling, reader: Reader, place: int) -> None:
        self._sampling, self._place = sampling, place
        self._halved = [(read, _Halved(read.width)) for read in reader.inputs]

    def update(self, values: Values, batch: int) -> None:
        """Add the rows of a batch."""
        for read, halved in self._halved:
            halved.update(*self._sampling.rows(values, read, self._place, batch))

    def freeze(self) -> Moments:
        """The moments of every input. Raises ``DataError`` where one has no image."""
        return tuple(halved.freeze() for _, halved in self._halved)


class _Halved:
    """Gathers the moments of every other image."""

    def __init__(self, width: int) -> None:
        self._halves = JointAccumulator(width), JointAccumulator(width)
        self._n_images = 0

    def update(self, x: Tensor, x_hat: Tensor | None) -> None:
        """Add the rows of b images, ``(b, places, w)``."""
        for parity, half in enumerate(self._halves):
            own = slice((parity + self._n_images) % 2, None, 2)
            if len(x[own]):
                half.update(x[own].flatten(0, 1), None if x_hat is None else x_hat[own].flatten(0, 1))
        self._n_images += len(x)

    def freeze(self) -> Halves:
        """The moments of both. Raises ``DataError`` where one has no image."""
        return self._halves[0].freeze(), self._halves[1].freeze()


def moments_in_one_pass(
    captured: fx.GraphModule,
    batches: Sequence[Tensor],
    readers: Sequence[Reader],
    sampling: Sampling,
    progress: Progress,
) -> list[Moments]:
    """Moments of every reader's inputs in the original network, one batch's activations held at a time."""
    gathered = [_Gathered(sampling, reader, place) for place, reader in enumerate(readers)]
    with progress.stage("gathering moments", sampling.n_images, "images") as advance:
        for number, batch in enumerate(batches):
            walk = Lockstep(captured, [batch])
            for reader, into in zip(readers, gathered, strict=True):
                [values] = walk.before(reader.node)
                into.update(values, number)
            advance(len(batch))
    return [each.freeze() for each in gathered]

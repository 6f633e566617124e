"""What is to be computed, in a form that travels: images, networks, and the shards that each network lacks."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune_tool.pipeline.decode import Batch, Decoder
from prune_tool.pipeline.engines.network import Network
from prune_tool.pipeline.engines.runners import Neurons
from prune_tool.task.images import ImageSource

CHUNK = 32
"""Most images that one thread or worker decodes at a time: a GPU's batch is the work of several."""

Shard = tuple[int, dict[int, Neurons]]
"""A shard's number, and its neurons by network."""

Shards = Generator[Shard, None, None]
"""Shards as they are done; closing it ends the work."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The work of one extraction.

    Attributes:
        source: the images.
        rows: (n,) positions in the source.
        shard_size: rows of a shard.
        networks: by number.
        missing: by the network's number, the shards that it lacks.
        batch_size: images of a forward pass.
        amp: autocast to half precision.
    """

    source: ImageSource
    rows: NDArray[np.int64]
    shard_size: int
    networks: Mapping[int, Network]
    missing: Mapping[int, frozenset[int]]
    batch_size: int
    amp: bool = False

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that some network lacks, ascending."""
        return sorted(frozenset().union(*self.missing.values()))

    @property
    def n_images(self) -> int:
        """Images to decode."""
        return sum(len(self.rows_of(shard)) for shard in self.shards)

    @property
    def decoder(self) -> Decoder:
        """Prepares images for the networks."""
        return Decoder(self.source, {i: network.preprocessing for i, network in self.networks.items()})

    def rows_of(self, shard: int) -> NDArray[np.int64]:
        """Positions of a shard's images in the source."""
        return self.rows[shard * self.shard_size : (shard + 1) * self.shard_size]

    def chunks(self, shards: Iterable[int]) -> Iterator[Chunk]:
        """The images of shards in order, in parts that cross no edge of a batch or shard."""
        for shard in shards:
            rows = self.rows_of(shard)
            wanted = tuple(i for i, lacking in self.missing.items() if shard in lacking)
            for start in range(0, len(rows), self.batch_size):
                of_batch = rows[start : start + self.batch_size]
                for place in range(0, len(of_batch), CHUNK):
                    ends_batch = place + CHUNK >= len(of_batch)
                    yield Chunk(
                        batch=Batch(rows=of_batch[place : place + CHUNK], wanted=wanted),
                        n_batch=len(of_batch),
                        shard=shard,
                        ends_batch=ends_batch,
                        ends_shard=ends_batch and start + self.batch_size >= len(rows),
                    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Images decoded together, part of a batch of ``n_batch`` images of a shard."""

    batch: Batch
    n_batch: int
    shard: int
    ends_batch: bool
    ends_shard: bool

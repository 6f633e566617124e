"""One shard: feature arrays of some images in one safetensors file, which says and proves what it holds.

Its metadata list the images (their content hashes, row by row) and a checksum of every array, under a checksum of their
own. So a shard is trusted for what stands in it, wherever it lies and whatever it is called.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prune_tool.store.fingerprint import fingerprint

Floats = NDArray[np.float32]

_SEAL = "prune_tool"  # the key of the metadata


class DamagedShardError(ValueError):
    """The file is not what was written."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a shard says of itself: its ``images`` row by row, and the checksum of every array by name."""

    images: tuple[str, ...]
    digests: dict[str, str]


def encode_shard(images: Sequence[str], arrays: Mapping[str, Floats]) -> bytes:
    """The file's content.

    Args:
        images: (n,) content hashes.
        arrays: by name, (n, width) float32.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    digests = {name: fingerprint(array) for name, array in tensors.items()}
    said = json.dumps({"images": list(images), "digests": digests}, sort_keys=True)
    # One key alone: safetensors writes several in an order that changes, and equal shards should be equal files.
    return save(tensors, metadata={_SEAL: f"{fingerprint(said)} {said}"})


def read_header(path: Path) -> Header:
    """What the shard holds. Raises ``DamagedShardError``, or ``OSError`` where it cannot be opened."""
    header, _ = read_shard(path, ())
    return header


def read_shard(path: Path, names: Collection[str]) -> tuple[Header, dict[str, Floats]]:
    """The header, and arrays by name, (n, width) float32, every number checked.

    Raises:
        DamagedShardError: not what was written.
        KeyError: the shard is whole but has no array of that name.
        OSError: it cannot be opened.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = _header(file.metadata())
            if unknown := set(names) - set(header.digests):
                raise KeyError(f"no features {sorted(unknown)} in {path}, which has {sorted(header.digests)}")
            arrays: dict[str, Floats] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError) as error:
        raise DamagedShardError(str(path)) from error
    if any(fingerprint(array) != header.digests[name] for name, array in arrays.items()):
        raise DamagedShardError(str(path))
    return header, arrays


def _header(metadata: Any) -> Header:
    checksum, _, said = (metadata or {}).get(_SEAL, "").partition(" ")
    if checksum != fingerprint(said):
        raise ValueError("no seal, or a broken one")
    content = json.loads(said)
    return Header(images=tuple(content["images"]), digests=content["digests"])

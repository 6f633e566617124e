"""The feature cache: what a backbone computed for every image, kept on disk so that no image is looked at twice.

An entry is a folder of shards; shard ``i`` holds rows ``[i * shard_size, (i + 1) * shard_size)`` of every array, in one
safetensors file. A shard is renamed into place when it is complete and carries checksums of its content, so the files
alone say what is there: a kill at any moment loses the shard being written and nothing else.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prune_tool.errors import CacheError
from prune_tool.store.atomic import PARTIAL_PREFIX, replacing
from prune_tool.store.fingerprint import fingerprint

CACHE_VARIABLE = "PRUNE_TOOL_CACHE"
"""Environment variable that says where the cache lies."""

Floats = NDArray[np.float32]


def cache_root() -> Path:
    """The folder that ``PRUNE_TOOL_CACHE`` names, or else the platform's cache folder for this tool."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("prune-tool"))


class FeatureCache:
    """Entries by key, in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry(self, key: str, n_images: int, shard_size: int) -> "FeatureEntry":
        """The entry ``key``, which need not exist yet.

        Args:
            key: a fingerprint of all that the features depend on: weights, taps, preprocessing and images.
            n_images: rows of every array.
            shard_size: rows of a shard; another size is another entry.
        """
        return FeatureEntry(self.root / "features" / f"{key}-{shard_size}", n_images=n_images, shard_size=shard_size)

    def graph(self, key: str) -> Path:
        """Where the compiled graph ``key`` belongs; its folder is there. Raises ``CacheError`` where it cannot be."""
        return self._folder("graphs") / f"{key}.onnx"

    def findings(self, key: str) -> Path:
        """Where the findings ``key`` of an analysis belong; as ``graph``."""
        return self._folder("findings") / f"{key}.json"

    def latencies(self, key: str) -> Path:
        """Where the latencies ``key`` belong; as ``graph``."""
        return self._folder("latencies") / f"{key}.json"

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        return folder


class FeatureEntry:
    """The feature arrays of one backbone on one set of images, in shards."""

    def __init__(self, folder: Path, *, n_images: int, shard_size: int) -> None:
        self.folder, self.n_images, self.shard_size = folder, n_images, shard_size
        self.n_shards = -(-n_images // shard_size)
        # One lock for all threads: the one that extracts may write while another holds the entry.
        self._lock = FileLock(folder / ".lock", thread_local=False)

    def rows(self, shard: int) -> range:
        """The rows (image numbers) that ``shard`` holds."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.n_images))

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be written, ascending."""
        return [shard for shard in range(self.n_shards) if not self._file(shard).is_file()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from filling this entry; waits for one that does.

        Whoever fills an entry holds this from ``missing`` to the last ``write``, so that nothing is computed twice.
        What a killed writer left half written is removed here. The operating system frees the lock of a killed process.

        Raises:
            CacheError: the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            if self._lock.lock_counter == 1:
                for leftover in self.folder.glob(f"{PARTIAL_PREFIX}*"):
                    leftover.unlink(missing_ok=True)
            yield
        finally:
            self._lock.release()

    def write(self, shard: int, arrays: Mapping[str, Floats]) -> None:
        """Write one shard, atomically.

        Args:
            shard: its number.
            arrays: by name, (rows of the shard, width) float32. Every shard has the same names.

        Raises:
            CacheError: the cache cannot be written, or the disk is full.
            ValueError: an array has another shape or type.
        """
        n_rows = len(self.rows(shard))
        for name, array in arrays.items():
            if array.dtype != np.float32 or array.ndim != 2 or len(array) != n_rows:
                raise ValueError(f"{name}: ({n_rows}, width) float32 expected, not {array.shape} {array.dtype}")
        tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        encoded = save(tensors, metadata=self._seal(shard, {name: fingerprint(a) for name, a in tensors.items()}))
        with self.locked():
            try:
                with replacing(self._file(shard)) as partial:
                    partial.write_bytes(encoded)
            except OSError as error:
                raise _unwritable(self.folder, error) from error

    def read(self, names: Collection[str], rows: NDArray[np.int64] | None = None) -> dict[str, Floats]:
        """Read arrays, every number checked against the checksum that was written with it.

        Args:
            names: of the arrays.
            rows: (n,) image numbers in any order; None for all.

        Returns:
            By name, (n, width) float32, in the order of ``rows``.

        Raises:
            CacheError: shards are missing, or one is damaged; a damaged one is deleted, so that running again mends it.
            KeyError: the entry has no array of that name.
        """
        wanted = np.arange(self.n_images) if rows is None else rows
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.n_images:
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {self.n_images}")
        shard_of = wanted // self.shard_size
        needed = np.unique(shard_of).tolist() or [0]  # no rows still have a width
        self._require(needed)
        found: dict[str, Floats] = {}
        for shard in needed:
            here = np.flatnonzero(shard_of == shard)
            for name, array in self._read_shard(shard, names).items():
                if name not in found:
                    found[name] = np.empty((len(wanted), array.shape[1]), np.float32)
                found[name][here] = array[wanted[here] - shard * self.shard_size]
        return found

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.safetensors"

    def _seal(self, shard: int, digests: Mapping[str, str]) -> dict[str, str]:
        """What a shard's file says of itself: which rows, each array's checksum, and a checksum of that."""
        rows = self.rows(shard)
        said = {"rows": f"{rows.start}:{rows.stop}", "arrays": json.dumps(digests, sort_keys=True)}
        return {**said, "checksum": fingerprint(said)}

    def _read_shard(self, shard: int, names: Collection[str]) -> dict[str, Floats]:
        """Arrays of one shard by name, (rows of the shard, width), verified."""
        path = self._file(shard)
        try:
            with safe_open(path, framework="np") as file:
                digests: dict[str, str] = json.loads((file.metadata() or {}).get("arrays", "{}"))
                if file.metadata() != self._seal(shard, digests):
                    raise self._damaged(shard)
                if unknown := set(names) - set(digests):
                    raise KeyError(f"no features {sorted(unknown)} in this entry, which has {sorted(digests)}")
                arrays: dict[str, Floats] = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, ValueError, UnicodeDecodeError) as error:
            raise self._damaged(shard) from error
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        if any(fingerprint(array) != digests[name] for name, array in arrays.items()):
            raise self._damaged(shard)
        return arrays

    def _require(self, shards: list[int]) -> None:
        absent = [shard for shard in shards if not self._file(shard).is_file()]
        if absent:
            raise CacheError(
                asked=f"read features from {self.folder}",
                found=f"{len(absent)} of {self.n_shards} shards are not there, the first of them number {absent[0]}",
                remedy="Run the same command again: it computes what is missing",
            )

    def _damaged(self, shard: int) -> CacheError:
        """Delete a damaged shard, so that it counts as missing, and say so."""
        self._file(shard).unlink(missing_ok=True)
        rows = self.rows(shard)
        return CacheError(
            asked=f"read features from {self.folder}",
            found=f"shard {shard} (images {rows.start} to {rows.stop - 1}) was damaged on disk; it has been deleted",
            remedy="Run the same command again: it computes what is missing",
        )


def _unwritable(folder: Path, error: OSError) -> CacheError:
    return CacheError(
        asked=f"use the feature cache {folder}",
        found=error.strerror or str(error),
        remedy=f"Free some space, or set {CACHE_VARIABLE} to a folder on a disk that has some and can be written",
    )

"""The feature cache: what a backbone computed for every image, kept on disk so that no image is looked at twice.

    features/SUBJECT/ENTRY/SHARD.safetensors     subject: weights and preprocessing; entry: a list of images
    features/SUBJECT/ENTRY/about.json            what the entry is of, for people; its time is when it was last used
    graphs/KEY.onnx  findings/KEY.json           see ``store.kept``
    locks/                                       one empty file an entry

An entry cuts its images into shards of fixed size and names each by the images in it. What counts as there is what
shards say they hold (``store.shards``), row by row and in any entry of the same subject: an image that was added or
changed costs its own shard again and no other, whatever it shifts, and images that another split or another folder
shares cost nothing. A tap that is asked for later is written into the shards that are there; fewer taps are a part of
them. A shard is renamed into place when it is complete, so a kill at any moment loses the one being written, no more.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prune_tool.errors import CacheError
from prune_tool.store.atomic import PARTIAL_PREFIX, as_json_text, replacing
from prune_tool.store.fingerprint import fingerprint
from prune_tool.store.kept import KeptFile
from prune_tool.store.root import About, Lock, Say, hold, unwritable
from prune_tool.store.shards import DamagedShardError, Floats, encode_shard, read_header, read_shard

ABOUT = "about.json"
SHARD_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
_KEY_DIGITS = 32  # of names on disk: 128 bits never meet by chance, and paths stay short enough for every system


class FeaturesLostError(CacheError):
    """Features that were there are missing or damaged. Extracting them again mends it."""


class FeatureCache:
    """Entries by what they are of, in one folder."""

    def __init__(self, root: Path, on_wait: Say | None = None) -> None:
        self.root = root
        self._on_wait = on_wait

    def entry(
        self, subject: str, images: Sequence[str], arrays: Sequence[str], *, shard_size: int, about: About
    ) -> FeatureEntry:
        """The entry of some images, which need not exist yet.

        Args:
            subject: a fingerprint of all that features depend on but the images: weights, preprocessing, precision.
            images: (n,) content hash of every row's image.
            arrays: names of the arrays that a row needs.
            shard_size: rows of a shard.
            about: what to say of it to people.
        """
        key = fingerprint(subject, images)[:_KEY_DIGITS]
        return FeatureEntry(
            self.root / "features" / subject[:_KEY_DIGITS] / key,
            images=images,
            arrays=arrays,
            shard_size=shard_size,
            about=about,
            lock=Lock(self.root, key, self._on_wait),
        )

    def graph(self, key: str) -> KeptFile:
        """The compiled graph ``key``."""
        return KeptFile(self.root, self.root / "graphs" / f"{key[:_KEY_DIGITS]}.onnx", self._on_wait)

    def findings(self, key: str) -> KeptFile:
        """The findings ``key`` of an analysis."""
        return KeptFile(self.root, self.root / "findings" / f"{key[:_KEY_DIGITS]}.json", self._on_wait)

    def narrowing(self, key: str) -> KeptFile:
        """What the layers of a narrowed trunk compute with."""
        return KeptFile(self.root, self.root / "narrowings" / f"{key[:_KEY_DIGITS]}.safetensors", self._on_wait)

    def runtime(self, key: str) -> KeptFile:
        """Which runtime is faster for the graph and processor ``key``."""
        return KeptFile(self.root, self.root / "runtimes" / f"{key[:_KEY_DIGITS]}.json", self._on_wait)

    def latencies(self, key: str) -> KeptFile:
        """The latencies ``key`` of some networks on one machine."""
        return KeptFile(self.root, self.root / "latencies" / f"{key[:_KEY_DIGITS]}.json", self._on_wait)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of a shard that lie in one file: ``there`` (rows of the shard,) int64, the row in the file or -1."""

    path: Path
    there: NDArray[np.int64]


class FeatureEntry:
    """The feature arrays of one backbone on one list of images, in shards."""

    def __init__(
        self,
        folder: Path,
        *,
        images: Sequence[str],
        arrays: Sequence[str],
        shard_size: int,
        about: About,
        lock: Lock,
    ) -> None:
        self.folder, self.images, self.arrays, self.about = folder, images, tuple(arrays), about
        self.n_images, self.shard_size = len(images), shard_size
        self.n_shards = -(-self.n_images // shard_size)
        self._lock = lock
        self._pieces: dict[int, list[_Piece]] | None = None
        self._held: set[Path] = set()

    def rows(self, shard: int) -> range:
        """The rows (image numbers) that ``shard`` holds."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.n_images))

    def missing(self) -> list[int]:
        """Numbers of the shards with a row that is nowhere, ascending; looks at the disk anew."""
        self._pieces = self._locate()
        return [shard for shard in range(self.n_shards) if shard not in self._pieces]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from filling this entry; waits for one that does.

        Whoever fills an entry holds this from ``missing`` to the last ``write``, so that nothing is computed twice.
        What a killed writer left half written is removed here.

        Raises:
            CacheError: the cache cannot be written.
        """
        with self._lock.held("features") as outermost:
            if outermost:
                self._prepare()
            yield

    def write(self, shard: int, arrays: Mapping[str, Floats]) -> None:
        """Write one shard, atomically. Other arrays of the same images that are there already stay.

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
        with self.locked():
            encoded = encode_shard(self._images(shard), {**self._others_of(shard, arrays), **arrays})
            try:
                with replacing(self._file(shard)) as partial:
                    partial.write_bytes(encoded)
            except OSError as error:
                raise unwritable(self.folder, error) from error
        self._pieces = None

    def read(self, names: Collection[str], rows: NDArray[np.int64] | None = None) -> dict[str, Floats]:
        """Read arrays, every number checked against the checksum that was written with it.

        Args:
            names: of the arrays, of those that the entry was opened with.
            rows: (n,) image numbers in any order; None for all.

        Returns:
            By name, (n, width) float32, in the order of ``rows``.

        Raises:
            FeaturesLostError: shards are missing, or one is damaged; a damaged one is deleted, so that it counts as
                missing.
            CacheError: the cache cannot be read.
            KeyError: the entry was opened without an array of that name.
        """
        if unknown := set(names) - set(self.arrays):
            raise KeyError(f"no features {sorted(unknown)} in this entry, which has {sorted(self.arrays)}")
        wanted = np.arange(self.n_images) if rows is None else rows
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.n_images:
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {self.n_images}")
        by_shard = np.argsort(wanted // self.shard_size, kind="stable")
        shards, starts = np.unique(wanted[by_shard] // self.shard_size, return_index=True)
        needed = shards.tolist() or [0]  # no rows still have a width
        places = np.split(by_shard, starts[1:])
        found: dict[str, Floats] = {}
        for shard, here in zip(needed, places, strict=True):
            for piece in self._pieces_of(shard, needed):
                there = piece.there[wanted[here] - shard * self.shard_size]
                for name, array in self._read_piece(piece, names).items():
                    if name not in found:
                        found[name] = np.empty((len(wanted), array.shape[1]), np.float32)
                    found[name][here[there >= 0]] = array[there[there >= 0]]
        return found

    def _images(self, shard: int) -> Sequence[str]:
        rows = self.rows(shard)
        return self.images[rows.start : rows.stop]

    def _file(self, shard: int) -> Path:
        return self.folder / f"{fingerprint(self._images(shard))[:_KEY_DIGITS]}.safetensors"

    def _prepare(self) -> None:
        """Make the folder, say what it is of, and remove what killed writers left."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{PARTIAL_PREFIX}*"):
                leftover.unlink(missing_ok=True)
            with replacing(self.folder / ABOUT) as partial:
                partial.write_text(as_json_text(self.about.as_dict()), encoding="utf-8")
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _others_of(self, shard: int, arrays: Collection[str]) -> dict[str, Floats]:
        """Arrays of the same images that a shard has already, beside ``arrays``."""
        path = self._file(shard)
        try:
            header = read_header(path)
            if header.images == tuple(self._images(shard)):
                return read_shard(path, header.digests.keys() - set(arrays))[1]
        except (DamagedShardError, OSError):
            pass  # none, or none that can be used
        return {}

    def _locate(self) -> dict[int, list[_Piece]]:
        """Where the rows of every shard lie that is not missing."""
        names = [self._file(shard) for shard in range(self.n_shards)]
        found: dict[int, list[_Piece]] = {}
        for shard, path in enumerate(names):
            images = self._arrays_in(path)
            if images == tuple(self._images(shard)):
                found[shard] = [_Piece(path, np.arange(len(images)))]
        left = [shard for shard in range(self.n_shards) if shard not in found]
        if left:
            found |= self._borrowed(left, own={path.name for path in names})
        for folder in {piece.path.parent for pieces in found.values() for piece in pieces}:
            self._use(folder)
        return found

    def _borrowed(self, shards: Sequence[int], own: Collection[str]) -> dict[int, list[_Piece]]:
        """Of ``shards``, those whose every row lies in some other file of this subject."""
        wanted = {image for shard in shards for image in self._images(shard)}
        place: dict[str, tuple[Path, int]] = {}
        for path in sorted(self.folder.parent.glob("*/*.safetensors")):
            if SHARD_NAME.fullmatch(path.name) and not (path.parent == self.folder and path.name in own):
                for row, image in enumerate(self._arrays_in(path)):
                    if image in wanted:
                        place.setdefault(image, (path, row))
            if len(place) == len(wanted):
                break
        return {
            shard: _pieces([place[image] for image in self._images(shard)])
            for shard in shards
            if all(image in place for image in self._images(shard))
        }

    def _arrays_in(self, path: Path) -> tuple[str, ...]:
        """The images of a shard that has all arrays asked for; none where it has not, or cannot be trusted."""
        try:
            header = read_header(path)
        except (DamagedShardError, FileNotFoundError):
            return ()
        except OSError as error:
            raise unwritable(self.folder, error) from error
        return header.images if header.digests.keys() >= set(self.arrays) else ()

    def _use(self, folder: Path) -> None:
        """Note that an entry is used now, and keep it from being removed while this object lives."""
        with suppress(OSError):  # a cache that can only be read
            os.utime(folder / ABOUT)
        if folder not in self._held:
            self._held.add(folder)
            descriptor = hold(self.folder.parents[2], folder.name)
            if descriptor is not None:
                weakref.finalize(self, os.close, descriptor)

    def _pieces_of(self, shard: int, needed: Collection[int]) -> list[_Piece]:
        if self._pieces is None or shard not in self._pieces:  # another process may have written it meanwhile
            self._pieces = self._locate()
        if shard not in self._pieces:
            absent = [shard for shard in needed if shard not in self._pieces]
            raise self._lost(f"{len(absent)} of {self.n_shards} shards are not there, the first of them number {shard}")
        return self._pieces[shard]

    def _read_piece(self, piece: _Piece, names: Collection[str]) -> dict[str, Floats]:
        """Arrays of one file by name, verified."""
        try:
            return read_shard(piece.path, names)[1]
        except DamagedShardError as error:
            with suppress(FileNotFoundError):
                piece.path.unlink()
            raise self._lost(f"{piece.path} was damaged; it has been deleted") from error
        except FileNotFoundError as error:
            raise self._lost(f"{piece.path} has gone") from error
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _lost(self, found: str) -> FeaturesLostError:
        self._pieces = None
        return FeaturesLostError(
            asked=f"read features from {self.folder}",
            found=found,
            remedy="Run the same command again: it computes what is missing",
        )


def _pieces(places: Sequence[tuple[Path, int]]) -> list[_Piece]:
    """Rows of one shard by the file that each lies in."""
    pieces: dict[Path, NDArray[np.int64]] = {}
    for here, (path, row) in enumerate(places):
        pieces.setdefault(path, np.full(len(places), -1))[here] = row
    return [_Piece(path, there) for path, there in pieces.items()]

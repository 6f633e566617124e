"""Images inside parquet files, as the Hugging Face hub lays them out, read a row group at a time."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_tool.errors import DataError
from prune_tool.task.decode import bad_image
from prune_tool.task.extras import need
from prune_tool.task.labelled import EncodedImages
from prune_tool.task.labels import index_labels, labelled_rows, plain
from prune_tool.task.naming import IMAGES, LABELS, few, pick, splits_of_files

GROUPS_IN_MEMORY = 2**28
"""Bytes of row groups that a process keeps: the hub writes groups of about ten megabytes, so that several threads can
each be in one of their own. The group that was used last is kept however large it is."""

MAX_GROUP = 2**30
"""Bytes of the largest row group that is read: it lies in memory whole."""

REMEDY = (
    "Files as the Hugging Face hub has them work: a column 'image' of encoded bytes (or a struct of bytes and path) and"
    " a column 'label' of names or whole numbers"
)

Key = tuple[int, int]
"""File and row group, by number."""


@dataclass(frozen=True, kw_only=True)
class ParquetImages(EncodedImages):
    """An ``ImageSource`` over rows of parquet files.

    Attributes:
        files: the parquet files.
        column: with the encoded images: ``image``, or ``image.bytes`` inside a struct.
        places: (n, 3) file, row group and row within it of each image.
    """

    files: tuple[Path, ...]
    column: str
    places: NDArray[np.int32]

    def describe(self, i: int) -> str:
        """File, row group and row of image ``i``."""
        file, group, row = self.places[i].tolist()
        return f"{self.files[file]}, row {row} of row group {group}"

    def encoded(self, i: int) -> bytes:
        """The bytes in its row. Raises ``BadImageError`` where its row group is damaged or the row has none."""
        file, group, row = self.places[i].tolist()
        try:
            encoded: bytes | None = self._groups.get((file, group))[row].as_py()
        except OSError:
            raise
        except Exception as error:  # a damaged page raises anything
            raise bad_image(self.describe(i), f"its row group cannot be read ({error})") from error
        if encoded is None:
            raise bad_image(self.describe(i), "its row holds no bytes")
        return encoded

    @cached_property
    def _groups(self) -> "_Recent":
        return _Recent(self._load, GROUPS_IN_MEMORY)

    def _load(self, key: Key) -> Any:
        """The encoded images of a row group, as an Arrow array."""
        from pyarrow import parquet  # noqa: PLC0415 - it is there: ``open_parquet`` went before

        file, group = key
        with parquet.ParquetFile(self.files[file]) as opened:
            column = opened.read_row_group(group, columns=[self.column], use_threads=False).column(0).combine_chunks()
        return column.flatten()[0] if "." in self.column else column


class _Recent:
    """The row groups used last, up to a number of bytes; one is loaded at a time."""

    def __init__(self, load: Callable[[Key], Any], n_bytes: int) -> None:
        self._load, self._n_bytes = load, n_bytes
        self._kept: OrderedDict[Key, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key) -> Any:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._load(key)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(group.nbytes for group in self._kept.values()) > self._n_bytes:
                self._kept.popitem(last=False)
            return self._kept[key]


def holds_images(path: Path) -> bool:
    """Whether a parquet file has a column of encoded images. Raises ``DataError`` where it cannot be read."""
    return _image_column(_open(path).schema_arrow) is not None


def open_parquet(files: Sequence[Path], name: str) -> ParquetImages:
    """Read parquet files with encoded images and labels in them.

    Columns are found by the Hugging Face features in a file's metadata, or else by type and name. Splits are said by
    the files' names (``train-00000-of-00004.parquet``) or by their folders'.

    Args:
        files: shards with the same columns.
        name: what to call the images.

    Raises:
        DataError: a file cannot be read, has no column of images or labels, or row groups too large to hold.
    """
    asked = f"read images from {few([file.name for file in files])} in {files[0].parent}"
    by_name = splits_of_files(files)
    first = _open(files[0]).schema_arrow
    column, label = _image_column(first), _label_column(first)
    if column is None or label is None:
        lacking = "encoded images" if column is None else "labels"
        lacks = f"the columns {few(first.names)} in {files[0].name}, and no {lacking} among them"
        raise DataError(asked=asked, found=lacks, remedy=REMEDY)
    places, found, splits = [], [], []
    for number, file in enumerate(files):
        places.append(_places(file, number, asked))
        found += _labels(file, label, column, asked)
        splits += [by_name[file]] * len(places[-1])
    try:
        values = plain(found)
        kept = labelled_rows(values, splits, lambda i: f"row {i}")
        classes, labels = index_labels([values[i] for i in kept], _names(first, label))
    except ValueError as error:
        raise DataError(asked=asked, found=str(error), remedy=REMEDY) from error
    return ParquetImages(
        name=name,
        classes=classes,
        labels=labels,
        given_splits=tuple(splits[i] for i in kept),
        files=tuple(files),
        column=column,
        places=np.concatenate(places)[kept],
    )


def _open(path: Path) -> Any:
    asked = f"read {path}"
    parquet = need("pyarrow.parquet", extra="parquet", asked=asked)
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # a damaged file raises anything
        raise DataError(
            asked=asked, found=f"it is no parquet file, or a damaged one ({error})", remedy=REMEDY
        ) from error


def _features(schema: Any) -> Mapping[str, Any]:
    """The Hugging Face features that a file's metadata describe, by column; empty where it has none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _of_type(schema: Any, kind: str) -> list[str]:
    features = _features(schema)
    return [n for n in schema.names if isinstance(features.get(n), dict) and features[n].get("_type") == kind]


def _image_column(schema: Any) -> str | None:
    """The column of encoded images, as parquet names it; by type where no feature says."""
    paths = {field.name: path for field in schema if (path := _bytes_path(field)) is not None}
    candidates = [name for name in _of_type(schema, "Image") if name in paths] or [*paths]
    name = pick(candidates, IMAGES) or (candidates[0] if len(candidates) == 1 else None)
    return None if name is None else paths[name]


def _bytes_path(field: Any) -> str | None:
    """Where a field keeps bytes: itself, or in a struct that has ``bytes``."""
    kind = str(field.type)
    if kind in {"binary", "large_binary"}:
        return str(field.name)
    inner = field.type.get_field_index("bytes") if kind.startswith("struct") else -1
    return f"{field.name}.bytes" if inner >= 0 and "binary" in str(field.type.field(inner).type) else None


def _label_column(schema: Any) -> str | None:
    candidates = _of_type(schema, "ClassLabel") or schema.names
    return pick(candidates, LABELS) or (candidates[0] if len(candidates) == 1 and _features(schema) else None)


def _names(schema: Any, label: str) -> Sequence[str]:
    feature = _features(schema).get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _places(file: Path, number: int, asked: str) -> NDArray[np.int32]:
    """(rows, 3) file, row group and row within it."""
    metadata = _open(file).metadata
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size for group in groups), default=0)
    if largest > MAX_GROUP:
        raise DataError(
            asked=asked,
            found=f"{file.name} has a row group of {largest / 2**30:.1f} GiB, which would lie in memory whole",
            remedy=f"Write it again: pq.write_table(pq.read_table('{file.name}'), 'again.parquet', row_group_size=100)",
        )
    parts = [np.stack([np.full(g.num_rows, i), np.arange(g.num_rows)], axis=1) for i, g in enumerate(groups)]
    places = np.concatenate([np.empty((0, 2), np.int64), *parts])
    return np.insert(places, 0, number, axis=1).astype(np.int32)


def _labels(file: Path, label: str, column: str, asked: str) -> list[object]:
    """The column of labels, as it is."""
    parquet = need("pyarrow.parquet", extra="parquet", asked=asked)
    opened = _open(file)
    if label not in opened.schema_arrow.names or _image_column(opened.schema_arrow) != column:
        found = f"{file.name} has the columns {few(opened.schema_arrow.names)}, unlike the first file"
        raise DataError(asked=asked, found=found, remedy="Give files with the same columns")
    try:
        values: list[object] = parquet.read_table(file, columns=[label]).column(0).to_pylist()
    except Exception as error:  # a damaged page raises anything
        raise DataError(asked=asked, found=f"{file.name} is damaged ({error})", remedy=REMEDY) from error
    return values

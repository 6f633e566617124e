"""What labelled images look like to the rest of the tool, whatever they are kept in, and the choice of reader."""

import difflib
import re
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prune_tool.errors import DataError
from prune_tool.records import Split
from prune_tool.task.arrays import open_arrays
from prune_tool.task.demo import open_demo
from prune_tool.task.folder import open_folder
from prune_tool.task.hub import is_saved, open_hub
from prune_tool.task.naming import shards_below, visible
from prune_tool.task.parquet import holds_images, open_parquet
from prune_tool.task.table import ENDINGS, open_tables
from prune_tool.task.tars import find_tars, open_tars
from prune_tool.task.torch_sets import open_torch

SUPPORTED = (
    "A folder of class folders (with or without train, val and test above them), a .csv or .parquet of path and label,"
    " a .parquet or .tar of images (or a folder of them), an .npz, hfds/NAME, torch/NAME and wds/PATTERN work"
)


class ImageSource(Protocol):
    """Labelled images, numbered from 0. Reading is safe from several threads at once."""

    @property
    def name(self) -> str:
        """What to call these images in a report."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) class of each image."""

    @property
    def given_splits(self) -> tuple[Split | None, ...]:
        """The split that the data itself puts each image in; None where it does not say."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str:
        """What to call image ``i`` in an error."""

    def read(self, i: int, *, keep_grey: bool = False) -> Image.Image:
        """Image ``i`` as upright 8-bit RGB; a grey one, if asked for, as one channel (mode L), which resizes faster.

        Raises ``BadImageError``, which names it.
        """

    def content_hashes(self) -> tuple[str, ...]:
        """One fingerprint per image, equal for byte-identical copies."""

    def fingerprint(self) -> str:
        """Of classes, labels and contents; where the images lie does not matter."""


def open_images(data: str | None) -> ImageSource:
    """Open the labelled images that the user names.

    Args:
        data: a folder of class folders, of tables, of parquet files or of tars; one such file, or an ``.npz``;
            ``hfds/NAME[:CONFIG]``, ``torch/NAME`` or ``wds/PATTERN``; ``None`` for the embedded default.

    Raises:
        DataError: there are none, or they cannot be used for classification.
    """
    if data is None:
        return open_demo()
    path = Path(data).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    scheme, _, name = data.partition("/")
    match scheme:
        case "hfds" if name:
            return open_hub(name)
        case "torch" if name:
            return open_torch(name)
        case "wds" if name:
            return open_tars(find_tars(name), re.sub(r"\.tar$", "", Path(name).name))
    if unknown := re.match(r"tfds/|hfids/|[a-z][a-z0-9+.-]+:", data):
        raise DataError(asked=f"read images from {data}", found=f"no reader for {unknown.group()}", remedy=SUPPORTED)
    raise DataError(asked=f"read images from {data}", found="no such file or folder", remedy=_suggestion(path))


def _open_file(path: Path) -> ImageSource:
    ending = path.suffix.lower()
    if ending == ".npz":
        return open_arrays(path)
    if ending == ".tar":
        return open_tars([path], path.stem)
    if ending in ENDINGS or (ending == ".parquet" and not holds_images(path)):
        return open_tables([path], path.stem)
    if ending == ".parquet":
        return open_parquet([path], path.stem)
    found = f"no reader for {ending or 'such'} files"
    raise DataError(asked=f"read images from {path}", found=found, remedy=SUPPORTED)


def _open_folder(path: Path) -> ImageSource:
    """Class folders before what lies beside them: archives and tables stay behind where they are unpacked."""
    if is_saved(path):
        return open_hub(str(path))
    try:
        return open_folder(path)
    except DataError as error:
        no_class_folders = error
    try:
        other = _open_beside(path)
    except DataError as error:
        found = f"as class folders, {no_class_folders.found}; as what else lies in it, {error.found}"
        raise DataError(asked=error.asked, found=found, remedy=error.remedy) from error
    if other is None:
        raise no_class_folders
    return other


def _open_beside(path: Path) -> ImageSource | None:
    """The images of the tars, parquet files or tables in a folder; None where there are none of them."""
    name = path.resolve().name
    if tars := shards_below(path, ".tar"):
        return open_tars(tars, name)
    files = shards_below(path, ".parquet")
    if files and holds_images(files[0]):
        return open_parquet(files, name)
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in (*ENDINGS, ".parquet") and visible(p.name))
    return open_tables(tables, name) if tables else None


def _suggestion(path: Path) -> str:
    """The neighbour whose name is closest to a path that does not exist, or what is supported."""
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, neighbours, n=1)
    return f"Did you mean {path.parent / close[0]}?" if close else SUPPORTED

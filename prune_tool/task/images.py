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

SUPPORTED = "A folder of class folders (with or without train, val and test above them) or an .npz file works"


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

    def read(self, i: int) -> Image.Image:
        """Image ``i`` as upright 8-bit RGB. Raises ``BadImageError``, which names it."""

    def content_hashes(self) -> tuple[str, ...]:
        """One fingerprint per image, equal for byte-identical copies."""

    def fingerprint(self) -> str:
        """Of classes, labels and contents; where the images lie does not matter."""


def open_images(data: str | None) -> ImageSource:
    """Open the labelled images that the user names.

    Args:
        data: a folder or an ``.npz`` file; ``None`` for the embedded default.

    Raises:
        DataError: there are none, or they cannot be used for classification.
    """
    if data is None:
        return open_demo()
    path = Path(data).expanduser()
    if path.is_dir():
        return open_folder(path)
    if path.is_file() and path.suffix.lower() == ".npz":
        return open_arrays(path)
    if path.is_file():
        raise DataError(
            asked=f"read images from {data}", found=f"no reader for {path.suffix or 'such'} files", remedy=SUPPORTED
        )
    if scheme := re.match(r"(hfds|torch|wds|tfds)/|[a-z][a-z0-9+.-]+:", data):
        raise DataError(asked=f"read images from {data}", found=f"no reader for {scheme.group()}", remedy=SUPPORTED)
    raise DataError(asked=f"read images from {data}", found="no such file or folder", remedy=_suggestion(path))


def _suggestion(path: Path) -> str:
    """The neighbour whose name is closest to a path that does not exist, or what is supported."""
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, neighbours, n=1)
    return f"Did you mean {path.parent / close[0]}?" if close else SUPPORTED

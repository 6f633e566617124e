"""Labelled images that are one file each."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prune_tool.records import Split
from prune_tool.store.fingerprint import file_fingerprint, fingerprint
from prune_tool.task.decode import bad_image, decode


@dataclass(frozen=True, kw_only=True)  # no slots: the hashes are computed once and kept
class FileImages:
    """An ``ImageSource`` over image files.

    Attributes:
        name: what to call these images in a report.
        classes: class names.
        labels: (n,) class of each image.
        given_splits: split of each image, where the data says.
        paths: file of each image.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    given_splits: tuple[Split | None, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, i: int) -> str:
        """The path of image ``i``."""
        return str(self.paths[i])

    def read(self, i: int) -> Image.Image:
        """Image ``i`` as upright 8-bit RGB. Raises ``BadImageError``."""
        try:
            encoded = self.paths[i].read_bytes()
        except OSError as error:
            raise bad_image(self.describe(i), error.strerror or str(error)) from error
        return decode(encoded, self.describe(i))

    def content_hashes(self) -> tuple[str, ...]:
        """SHA-256 of each file. One that cannot be read has a hash of its own: it is reported where it is decoded."""
        return self._hashes

    def fingerprint(self) -> str:
        """Of classes, labels and file contents."""
        return fingerprint("images", self.classes, self.labels, self._hashes)

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        return tuple(_content_hash(path) for path in self.paths)


def _content_hash(path: Path) -> str:
    try:
        return file_fingerprint(path)
    except OSError:
        return fingerprint("unreadable", str(path))

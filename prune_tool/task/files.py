"""Labelled images that are one file each."""

from dataclasses import dataclass
from pathlib import Path

from prune_tool.task.labelled import EncodedImages


@dataclass(frozen=True, kw_only=True)
class FileImages(EncodedImages):
    """An ``ImageSource`` over image files.

    Attributes:
        paths: file of each image.
    """

    paths: tuple[Path, ...]

    def describe(self, i: int) -> str:
        """The path of image ``i``."""
        return str(self.paths[i])

    def encoded(self, i: int) -> bytes:
        """The file's bytes. Raises ``OSError``."""
        return self.paths[i].read_bytes()

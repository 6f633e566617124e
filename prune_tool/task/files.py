"""Labelled images that are one file each."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from prune_tool.store.fingerprint import file_fingerprint, fingerprint
from prune_tool.task.decode import bad_image, decode
from prune_tool.task.labelled import LabelledImages


@dataclass(frozen=True, kw_only=True)
class FileImages(LabelledImages):
    """An ``ImageSource`` over image files.

    Attributes:
        paths: file of each image.
    """

    paths: tuple[Path, ...]

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

    def content_hash(self, i: int) -> str:
        """SHA-256 of the file. One that cannot be read has a hash of its own: it is reported where it is decoded."""
        try:
            return file_fingerprint(self.paths[i])
        except OSError:
            return fingerprint("unreadable", str(self.paths[i]))

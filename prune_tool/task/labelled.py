"""What all readers share: names, labels and splits, and fingerprints made of the images' contents."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prune_tool.errors import BadImageError
from prune_tool.records import Split
from prune_tool.store.fingerprint import bytes_fingerprint, fingerprint
from prune_tool.task.decode import bad_image, decode


@dataclass(frozen=True, kw_only=True)  # no slots: the hashes are computed once and kept
class LabelledImages(ABC):
    """The part of an ``ImageSource`` that does not depend on where the pixels lie.

    Pickled for another process it takes along what it was made of: hashes and open handles, which are cached
    properties, are made anew where they are asked for.

    Attributes:
        name: what to call these images in a report.
        classes: class names.
        labels: (n,) class of each image.
        given_splits: split of each image, where the data says.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    given_splits: tuple[Split | None, ...]

    @abstractmethod
    def content_hash(self, i: int) -> str:
        """A fingerprint of image ``i`` alone, equal for byte-identical copies."""

    def __len__(self) -> int:
        return len(self.labels)

    def content_hashes(self) -> tuple[str, ...]:
        """One fingerprint per image."""
        return self._hashes

    def fingerprint(self) -> str:
        """Of classes, labels and contents; where the images lie does not matter."""
        return fingerprint("images", self.classes, self.labels, self._hashes)

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        return tuple(self.content_hash(i) for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class EncodedImages(LabelledImages):
    """Images that are kept encoded: as files, or as parts of larger ones."""

    @abstractmethod
    def describe(self, i: int) -> str:
        """What to call image ``i`` in an error."""

    @abstractmethod
    def encoded(self, i: int) -> bytes:
        """The encoded bytes of image ``i``. Raises ``OSError`` or ``BadImageError`` where they cannot be read."""

    def read(self, i: int, *, keep_grey: bool = False) -> Image.Image:
        """Image ``i`` as upright 8-bit RGB, or L where it is grey and that is to be kept. Raises ``BadImageError``."""
        try:
            encoded = self.encoded(i)
        except OSError as error:
            raise bad_image(self.describe(i), error.strerror or str(error)) from error
        return decode(encoded, self.describe(i), keep_grey=keep_grey)

    def content_hash(self, i: int) -> str:
        """SHA-256 of the bytes. What cannot be read has a hash of its own: it is reported where it is decoded."""
        try:
            return bytes_fingerprint(self.encoded(i))
        except (OSError, BadImageError):
            return fingerprint("unreadable", self.describe(i))
